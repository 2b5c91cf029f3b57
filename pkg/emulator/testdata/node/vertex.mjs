// Google's JavaScript library for Vertex AI and Cloud Storage against the emulator,
// with a token of its metadata server. The argument is the emulator's URL.
import assert from 'node:assert/strict';
import {GoogleGenAI, JobState} from '@google/genai';
import {Storage} from '@google-cloud/storage';

const url = process.argv[2];
const ai = new GoogleGenAI({vertexai: true, project: 'my-project', location: 'us-central1', httpOptions: {baseUrl: url, apiVersion: 'v1'}});
const bucket = new Storage({apiEndpoint: url, projectId: 'p', useAuthWithCustomEndpoint: true}).bucket('bucket');

const lines = ['one text', '', 'another text'].map((text, i) => JSON.stringify({
  key: `k${i}`, request: {content: {parts: [{text}]}, embed_content_config: {output_dimensionality: 3}},
}) + '\n');
await bucket.file('in/x.jsonl').save(lines.join(''), {resumable: false});

const create = name => ai.batches.create({
  model: 'gemini-embedding-001', src: {gcsUri: ['gs://bucket/in/x.jsonl'], format: 'jsonl'},
  config: {displayName: name, dest: {gcsUri: 'gs://bucket/out/' + name, format: 'jsonl'}},
});
let job = await create('first');
assert.equal(job.state, JobState.JOB_STATE_QUEUED);
assert.equal(job.displayName, 'first');
const second = await create('second');

const states = [];
do {
  job = await ai.batches.get({name: job.name});
  states.push(job.state);
} while (job.state !== JobState.JOB_STATE_SUCCEEDED && states.length < 100);
assert.deepEqual(states, ['JOB_STATE_RUNNING', 'JOB_STATE_SUCCEEDED']);
assert.equal(job.completionStats.successfulCount, '2');
assert.equal(job.completionStats.failedCount, '1');

const [files] = await bucket.getFiles({prefix: job.outputInfo.gcsOutputDirectory.replace('gs://bucket/', '') + '/predictions'});
assert.equal(files.length, 1);
const results = (await files[0].download())[0].toString().trim().split('\n').map(l => JSON.parse(l));
const byKey = Object.fromEntries(results.map(r => [r.key, r]));
assert.equal(byKey.k0.response.embedding.values.length, 3);
assert.equal(byKey.k2.request.content.parts[0].text, 'another text');
assert.notEqual(byKey.k1.status, '');

const listed = [];
for await (const j of await ai.batches.list({config: {pageSize: 1}})) listed.push(j.displayName);
assert.deepEqual(listed, ['second', 'first']);
const filtered = [];
for await (const j of await ai.batches.list({config: {filter: 'display_name="first"'}})) filtered.push(j.displayName);
assert.deepEqual(filtered, ['first']);

await ai.batches.cancel({name: second.name});
assert.equal((await ai.batches.get({name: second.name})).state, JobState.JOB_STATE_CANCELLED);
await ai.batches.delete({name: second.name});
await assert.rejects(ai.batches.get({name: second.name}), error => error.status === 404);
await assert.rejects(ai.batches.create({model: 'other', src: {gcsUri: ['gs://bucket/in/x.jsonl'], format: 'jsonl'},
  config: {displayName: 'x', dest: {gcsUri: 'gs://bucket/out', format: 'jsonl'}}}), error => error.status === 404);
console.log('ok');
