// gbatch-fetch's work in node: reads in pieces, which is faster than readline.
const fs = require('fs');
const buf = Buffer.alloc(1 << 20);
let rest = Buffer.alloc(0);
function convert(line) {
  const r = JSON.parse(line);
  if (r.error) return JSON.stringify({ key: r.key, batch: 'b01', error: r.error }) + '\n';
  const v = Float32Array.from(r.response.embedding.values);
  return JSON.stringify({
    key: r.key, batch: 'b01', dim: v.length, vector: Buffer.from(v.buffer).toString('base64'),
    tokens: Number(r.response.tokenCount),
  }) + '\n';
}
for (;;) {
  const n = fs.readSync(0, buf, 0, buf.length, null);
  if (n === 0) break;
  const data = Buffer.concat([rest, buf.subarray(0, n)]);
  const end = data.lastIndexOf(10) + 1;
  rest = data.subarray(end);
  if (end > 0) {
    let out = '';
    for (const line of data.toString('utf8', 0, end - 1).split('\n')) out += convert(line);
    fs.writeSync(1, out);
  }
}
if (rest.length > 0) fs.writeSync(1, convert(rest.toString('utf8')));
