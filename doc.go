// Package gbatch is a suite of small commands that keep a DuckDB table of text
// chunks embedded through Google's Gemini Batch API, at half the price of
// online calls. Each command does one step; NDJSON on stdin and stdout joins
// them:
//
//	chunks-pending kb.duckdb | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb
//
// Running the line again is how it resumes, whatever killed it, and nothing is
// paid for twice.
//
//	chunks-add       puts chunks into the database
//	chunks-pending   claims the chunks that need a vector, in batches
//	to-jsonl         renders them as the requests of Google's batch file
//	gbatch-submit    uploads each batch and creates its job, once
//	gbatch-wait      waits until the jobs have ended
//	gbatch-fetch     streams their results, as packed vectors and errors of keys
//	vectors-apply    writes those back
//	jobs-pending     prints the jobs whose results are not applied yet
//	chunks-status    tells what is ready, queued, pending and failed
//	gbatch-list      lists the jobs or the files at Google
//	gbatch-cancel    ends jobs, deletes files that no job uses
//	chunks-release   gives claimed batches back that were not sent
//	gemini-emulator  is a local Gemini server, for demos and tests
//
// The records on the pipes are specified in package record.
package gbatch
