// to-jsonl's work in node: reads in pieces, which is faster than readline.
const fs = require('fs');
const buf = Buffer.alloc(1 << 20);
let rest = Buffer.alloc(0);
let header;
function convert(line) {
  const c = JSON.parse(line);
  if (c.count) {
    header = c;
    return line + '\n';
  }
  const request = { content: { parts: [{ text: c.text }] }, taskType: header.task_type };
  if (c.title) request.title = c.title;
  request.outputDimensionality = header.dim;
  return JSON.stringify({ key: c.id, claimed: true, request }) + '\n';
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
