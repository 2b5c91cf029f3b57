// Package gbatch is a suite of small commands that keep a DuckDB table of text
// chunks embedded through Google's Gemini Batch API, at half the price of
// online calls. Each command does one step; NDJSON on stdin and stdout joins
// them:
//
//	chunks-pending kb.duckdb | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb
//
// If the pipe is stopped or killed, run it again: it continues where it stopped, and
// pays for nothing twice.
//
//	text-to-chunks   cuts files of Markdown and plain text into chunks
//	chunks-add       puts chunks into the database
//	chunks-pending   claims the chunks that need a vector, in batches
//	to-jsonl         renders chunks as the requests of Google's batch file
//	gbatch-submit    uploads each batch and creates its job, once
//	gbatch-wait      waits until the jobs have ended
//	gbatch-fetch     streams the results of jobs, as packed vectors and errors of keys
//	vectors-apply    writes vectors and errors back to the database
//	jobs-pending     prints the jobs whose results are not applied yet
//	chunks-status    tells what is ready, queued, pending and failed, why, and at what cost
//	gbatch-list      prints the jobs or the files at Google
//	gbatch-cancel    cancels jobs, deletes input files that no job uses
//	chunks-near      prints the chunks that are nearest to vectors
//	gbatch-embed     embeds questions, and texts that cannot wait, by online calls
//	chunks-release   gives back claimed batches that were not sent
//	gemini-emulator  is a local Gemini server, for demos and tests
//
// The records on the pipes are specified in package record.
package gbatch
