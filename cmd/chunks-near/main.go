// chunks-near prints the chunks that are nearest to vectors, by the cosine.
//
//	chunks-near kb.duckdb --header | gbatch-embed --text 'What do gophers store?' | chunks-near kb.duckdb
//	chunks-near kb.duckdb --id notes/a.md -n 3
//
// It reads vectors, as gbatch-embed prints them, and prints a table on a terminal, and
// otherwise one JSON object a line, the nearest chunk first:
//
//	{"key":"What do gophers store?","id":"notes/a.md","score":0.87,"title":"Food","text":"Gophers store food in tunnels."}
//
// -n is the number of chunks for each vector. --min-score leaves out chunks whose
// cosine is less. --where selects chunks by a condition in SQL on the columns of your
// table, such as --where "title LIKE 'Food%'". It is SQL, which can read any file that you
// can read: never put the words of others into it. Only chunks that are READY count: the
// vector of a text that was edited since is not compared.
//
// --id takes the vector of a chunk in place of the input, and prints the other chunks
// that are near to it. --header prints a space record for gbatch-embed, and nothing
// else: the model, the dim and the task type for questions about the chunks. It is
// RETRIEVAL_QUERY for chunks embedded as RETRIEVAL_DOCUMENT, and otherwise the task type
// of the chunks.
//
// A vector after a space record is refused if it cannot be compared with the chunks'
// vectors: another model, another dim, or another task type. Chunks embedded as
// RETRIEVAL_DOCUMENT can be asked with RETRIEVAL_QUERY, QUESTION_ANSWERING,
// FACT_VERIFICATION and CODE_RETRIEVAL_QUERY. Without a space record only the length is
// checked.
//
// Each vector is compared with all vectors of the table. A million of 768 values take
// about five seconds of processor time. --memory-limit bounds the memory.
//
// Files that are given are read in place of stdin. --output writes a file whole or not
// at all: gbatch --help has the rules.
//
// Exit codes: 0 done, 1 failed, 2 usage, or a vector of another space, 3 done, but some
// questions have an error in place of a vector, 5 another process holds the database
// for longer than --lock-timeout, 7 input cut short or malformed.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Near)) }
