// Chunks-add puts chunks into a DuckDB database, unembedded: the other commands
// embed them later.
//
// It reads a chunk a line,
//
//	{"id":"chunk_123","text":"A passage of text","title":"optional","context":"optional"}
//
// and inserts it into the table, or replaces the chunk with the same id. A chunk
// that the table has with the same text, title and context is left alone, and
// keeps its vector. A context that is not empty is embedded in place of the text.
// All of the input goes in, or nothing does: an error names the line.
//
//	jq -c '{id: .slug, text: .body}' posts.json | chunks-add kb.duckdb
//
// The table is created if it does not exist, and its ids are text. In a table of
// your own the id may also be a whole number or a UUID.
//
// Exit codes: 0 done, 1 failed, 2 usage, 5 the database is held by another
// process for longer than --lock-timeout, 7 input cut short or malformed.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Add)) }
