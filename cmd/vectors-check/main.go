// Vectors-check looks for vectors that are wrong. It reads the table of vectors once,
// and prints a line for each check, or a table on a terminal. It writes nothing to
// the database.
//
//	vectors-check kb.duckdb
//	vectors-check kb.duckdb | jq 'select(.count > 0)'
//	vectors-check kb.duckdb --embeddings other_model
//
// Each line says how many are wrong (count), of how many (of), and the first keys. A
// finding also has a message that says what to do, and mostly a command line that
// does it (fix). The checks are:
//
//	length      a vector is missing, or has not as many values as its space
//	not_finite  a value is NaN or infinite
//	zero        all values are 0
//	norm        the length of the vector (L2) is not that of the others, or of the model
//	equal       vectors of different texts are equal bit for bit
//	dead        a dimension has the same value in all vectors
//	collapsed   the mean cosine of different texts is over 0.95
//	orphan      the chunk of the vector does not exist any more
//	stale       the chunk has another text now
//	twice       the chunk has another vector too
//	tokens      Google's count of tokens cannot be that of the chunk's text
//	mixed       the vector's batch was embedded in another space
//
// norm knows which models give vectors of length 1. gemini-embedding-001 does so only
// at 3072 values; at fewer values, a mix of vectors with length 1 (gbatch-fetch
// --normalize) and others is a finding. dead and collapsed are skipped if there are
// fewer than 100 different vectors. collapsed compares 1,000 texts with each other,
// the same ones in each run. tokens compares Google's count with the estimate, and
// finds a difference of more than a factor of 3. A vector whose text no chunk has now
// is stored without a chunk; this is not a finding. docs/records.md has the details.
//
// orphan and stale look at the chunks of all sources that were claimed for the table,
// or only of --from. If a source cannot be read any more, its chunks count as missing.
//
// --against compares the vectors with vectors made anew, and makes no other check:
//
//	gbatch-embed < chunks.ndjson | vectors-check kb.duckdb --against -
//
// It reads vector records of gbatch-embed or gbatch-fetch. Their keys are ids of
// chunks. The checks are:
//
//	cosine      the cosine of the two vectors of a key is below --min-cosine
//	not_stored  the key has no vector in the table
//	error       the key has an error in place of a new vector
//
// cosine also says how many vectors of the table have no record (missing). This is not
// a finding, since some chunks are enough. Vectors of another space are refused.
//
// --output writes a file whole or not at all: gbatch --help has the rules.
//
// Beside --memory-limit it needs about half a gigabyte, and 64 bytes for each vector.
//
// Exit codes: 0 no findings, 1 failed, 2 usage, 3 findings, 5 another process holds
// the database for longer than --lock-timeout, 7 the input of --against is malformed,
// 130 stopped by Ctrl-C.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Check)) }
