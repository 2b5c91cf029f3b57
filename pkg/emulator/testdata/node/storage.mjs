// Google's JavaScript library for Cloud Storage against the emulator. The argument
// is the emulator's URL.
import assert from 'node:assert/strict';
import {once} from 'node:events';
import {Storage} from '@google-cloud/storage';

const storage = new Storage({apiEndpoint: process.argv[2], projectId: 'p', retryOptions: {autoRetry: false}});
const bucket = storage.bucket('bucket');

async function refused(code, promise) {
  await assert.rejects(promise, error => (assert.equal(error.code, code), true));
}

async function read(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
}

// One request with metadata and bytes; the library compares the checksums.
const claim = bucket.file('claims/a b.json');
await claim.save('{"phase":"upload"}', {
  resumable: false, contentType: 'application/json', metadata: {metadata: {sha256: 'x'}}, preconditionOpts: {ifGenerationMatch: 0}, validation: 'crc32c',
});
await refused(412, claim.save('again', {resumable: false, preconditionOpts: {ifGenerationMatch: 0}}));
const [metadata] = await claim.getMetadata();
assert.equal(metadata.metadata.sha256, 'x');
assert.equal(metadata.contentType, 'application/json');
const first = metadata.generation;

// Compare and set.
await claim.save('{"phase":"create"}', {resumable: false, preconditionOpts: {ifGenerationMatch: first}});
await refused(412, claim.save('late', {resumable: false, preconditionOpts: {ifGenerationMatch: first}}));
assert.equal((await claim.download())[0].toString(), '{"phase":"create"}');
await refused(404, bucket.file('claims/a b.json', {generation: first}).download());
const [changed] = await claim.setMetadata({metadata: {k: 'v'}}, {ifMetagenerationMatch: 1});
assert.equal(changed.metageneration, '2');
await refused(412, claim.setMetadata({metadata: {k: 'w'}}, {ifMetagenerationMatch: 1}));

// A resumable upload in one piece, and one in pieces of 256 KiB.
const data = Buffer.alloc(700_001, 'line of text\n');
for (const chunkSize of [undefined, 256 * 1024]) {
  const file = bucket.file(`in/${chunkSize ?? 'whole'}.jsonl`);
  await file.save(data, {resumable: true, chunkSize, contentType: 'application/jsonl', validation: 'crc32c', preconditionOpts: {ifGenerationMatch: 0}});
  const [m] = await file.getMetadata();
  assert.equal(m.size, '700001');
  assert.equal(m.contentType, 'application/jsonl');
  assert.ok(data.equals((await file.download({validation: 'crc32c'}))[0]));
  assert.ok(data.subarray(1000, 2001).equals(await read(file.createReadStream({start: 1000, end: 2000, validation: false}))));
}

// An upload that is interrupted after its first piece, and continued.
const resumed = bucket.file('in/resumed.jsonl');
const [uri] = await resumed.createResumableUpload({metadata: {contentType: 'text/plain'}});
const begin = resumed.createWriteStream({uri, resumable: true, chunkSize: 256 * 1024, isPartialUpload: true, validation: false});
begin.end(data.subarray(0, 512 * 1024));
await once(begin, 'finish');
const rest = resumed.createWriteStream({uri, resumable: true, offset: 512 * 1024, resumeCRC32C: undefined, validation: false});
rest.end(data.subarray(512 * 1024));
await once(rest, 'finish');
assert.ok(data.equals((await resumed.download())[0]));

// Lists.
const names = files => files.map(f => f.name);
assert.deepEqual(names((await bucket.getFiles({prefix: 'in/'}))[0]), ['in/262144.jsonl', 'in/resumed.jsonl', 'in/whole.jsonl']);
const all = [];
for (let query = {maxResults: 1, autoPaginate: false}; query;) {
  const [files, next] = await bucket.getFiles(query);
  all.push(...names(files));
  query = next;
}
assert.deepEqual(all, ['claims/a b.json', 'in/262144.jsonl', 'in/resumed.jsonl', 'in/whole.jsonl']);
const [, , top] = await bucket.getFiles({delimiter: '/', autoPaginate: false});
assert.deepEqual(top.prefixes, ['claims/', 'in/']);

// Delete one generation only.
await refused(412, claim.delete({ifGenerationMatch: first}));
await claim.delete({ifGenerationMatch: (await claim.getMetadata())[0].generation});
assert.deepEqual(await claim.exists(), [false]);
await refused(404, claim.getMetadata());
console.log('ok');
