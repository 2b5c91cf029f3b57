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
// # Commands
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
//	vectors-check    looks for vectors that are wrong
//	gbatch-list      prints the jobs or the files at Google
//	gbatch-cancel    cancels jobs, deletes input files that no job uses
//	chunks-near      prints the chunks that are nearest to vectors
//	gbatch-embed     embeds questions, and texts that cannot wait, by online calls
//	chunks-release   gives back claimed batches that were not sent
//	gemini-emulator  is a local Gemini server, for demos and tests
//
// COMMAND --help prints the manual of a command. If a command has no link to the
// program gbatch, call it as gbatch COMMAND. gbatch write-help DIR writes the manual
// pages and the completions for bash, zsh and fish into a folder such as
// ~/.local/share. The records on the pipes are specified in docs/records.md.
//
// # Input and output
//
// A command that reads records reads the files that are given, in their order, in place
// of stdin; - is stdin. An error names the file and the line: chunks.ndjson:12. If a file
// does not exist, is a directory or cannot be read, nothing is done.
//
//	to-jsonl chunks.ndjson more.ndjson -o requests.jsonl
//
// A command that prints records has --output FILE, or -o FILE. The records are written to
// a new file beside FILE. At the end the new file gets the name FILE, and the mode of the
// file that it replaces. So FILE is complete, or as it was before. The new file gets the
// name if the exit code is 0, 3 or 4, or if only single jobs or batches have failed. If
// the folder cannot be written to, nothing is done. - is stdout. Devices and named pipes
// are written directly. A kill -9 leaves the new file, whose name is .FILE and eight digits.
//
// # Exit codes
//
//	0         done, or nothing to do
//	1         failed
//	2         wrong usage
//	3         done, but some keys or jobs failed; or vectors-check has findings
//	4         not finished yet (--once, --timeout)
//	5         try later: quota, lock
//	6         the outcome of a submission is unknown: run the pipe again
//	7         input cut short or malformed
//	8         refused by a cap, or an input file over 2 GB
//	130, 143  stopped by Ctrl-C or SIGTERM
//	141       the reader of the output ended
//
// # Environment
//
//	GEMINI_API_KEY, GOOGLE_API_KEY
//	                        the API key; GOOGLE_API_KEY takes precedence if both are
//	                        set
//	GOOGLE_GEMINI_BASE_URL  the base URL of another server; https, or http on
//	                        loopback
//	HTTPS_PROXY, NO_PROXY   as usual
//	XDG_STATE_HOME          the parent of the state folder gbatch, which holds the
//	                        intents; ~/.local/state by default
//	XDG_CACHE_HOME          the parent of the folder gbatch, in which gbatch-embed keeps
//	                        the vectors of questions; ~/.cache by default
//	TMPDIR                  the place for copies of the present batch and the next
//	                        one, in files without names
//	NO_COLOR                if it is set, nothing on a terminal has a color; the same
//	                        with TERM=dumb
//	GBATCH_PRICES           a file of prices, in the form of pkg/model/prices.json; its
//	                        prices of a model replace the known prices
//	GBATCH_…                the value of a flag: GBATCH_MAX_REQUESTS for
//	                        --max-requests; there is none for -v, -q and the --spaces
//	                        of chunks-status. A flag on the command line takes
//	                        precedence. A variable that belongs to no flag is a warning
//
// # Files
//
//	kb.duckdb              the database: your table, and the tables of the suite
//	kb.duckdb.wal          what DuckDB has still to write into the database
//	kb.duckdb.journal      what repairs the database after a kill -9
//	kb.duckdb.tmp-…        what exceeds --memory-limit, while a command runs
//	~/.local/state/gbatch  the intents: how far each submission has come
//	~/.cache/gbatch        the vectors of questions
package gbatch
