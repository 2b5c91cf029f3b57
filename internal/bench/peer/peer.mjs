// The whole pipe as one script with Google's SDK and DuckDB's own client, as a user
// of both would write it. It claims nothing and keeps no state: what it has sent
// when it is stopped is lost, or is paid for again.
//
//	node peer.mjs kb.duckdb 400000
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { ARRAY, DuckDBArrayValue, DuckDBInstance, FLOAT } from '@duckdb/node-api';
import { GoogleGenAI } from '@google/genai';

const model = 'gemini-embedding-001', dim = 768;
const [path, maxTokens] = [process.argv[2], Number(process.argv[3])];
const ai = new GoogleGenAI({ apiKey: process.env.GEMINI_API_KEY, httpOptions: { baseUrl: process.env.GOOGLE_GEMINI_BASE_URL, apiVersion: 'v1beta' } });
const db = await (await DuckDBInstance.create(path)).connect();
const dir = await mkdtemp(join(tmpdir(), 'peer-'));
await db.run(`CREATE TABLE IF NOT EXISTS embeddings (chunk_id VARCHAR, embedding FLOAT[${dim}], tokens INTEGER)`);

// Chunks to files of request lines, to jobs.
const jobs = [];
let file, out, tokens = 0;
async function submit() {
  out.end();
  await once(out, 'finish');
  const uploaded = await ai.files.upload({ file, config: { mimeType: 'application/jsonl', displayName: `part ${jobs.length}` } });
  jobs.push(await ai.batches.createEmbeddings({ model, src: { fileName: uploaded.name }, config: { displayName: `part ${jobs.length}` } }));
  await rm(file);
  out = undefined;
  tokens = 0;
}
const pending = await db.stream('SELECT id, title, text FROM chunks WHERE id NOT IN (SELECT chunk_id FROM embeddings)');
for await (const rows of pending.yieldRowObjectJs()) {
  for (const { id, title, text } of rows) {
    const size = text.length / 4;
    if (out && tokens + size > maxTokens) await submit();
    if (!out) out = createWriteStream(file = join(dir, `${jobs.length}.jsonl`));
    tokens += size;
    const request = { content: { parts: [{ text }] }, taskType: 'RETRIEVAL_DOCUMENT', outputDimensionality: dim };
    if (title) request.title = title;
    if (!out.write(JSON.stringify({ key: id, request }) + '\n')) await once(out, 'drain');
  }
}
if (out) await submit();

// Jobs to vectors, to the database.
const ended = new Set(['JOB_STATE_SUCCEEDED', 'JOB_STATE_FAILED', 'JOB_STATE_CANCELLED', 'JOB_STATE_EXPIRED']);
let failed = 0;
for (let job of jobs) {
  while (!ended.has((job = await ai.batches.get({ name: job.name })).state)) await new Promise((done) => setTimeout(done, 50));
  const results = join(dir, 'results.jsonl');
  await ai.files.download({ file: job.dest.fileName, downloadPath: results });
  await db.run('BEGIN');
  await db.run('CREATE OR REPLACE TEMP TABLE failures (id VARCHAR, message VARCHAR)');
  const vectors = await db.createAppender('embeddings'), failures = await db.createAppender('failures', null, 'temp');
  for await (const line of createInterface({ input: createReadStream(results) })) {
    const { key, response, error } = JSON.parse(line);
    if (error) {
      failed++;
      failures.appendVarchar(key);
      failures.appendVarchar(error.message);
      failures.endRow();
      continue;
    }
    vectors.appendVarchar(key);
    vectors.appendArray(new DuckDBArrayValue(response.embedding.values), ARRAY(FLOAT, dim));
    vectors.appendInteger(Number(response.tokenCount));
    vectors.endRow();
  }
  vectors.closeSync();
  failures.closeSync();
  await db.run(`UPDATE chunks SET embedding_status = 'READY' WHERE embedding_status = 'PENDING' AND id IN (SELECT chunk_id FROM embeddings)`);
  await db.run(`UPDATE chunks SET embedding_status = 'FAILED', error_message = message FROM failures WHERE chunks.id = failures.id`);
  await db.run('COMMIT');
}
await rm(dir, { recursive: true });
db.closeSync();
if (failed > 0) console.error(`${failed} chunks failed`);
