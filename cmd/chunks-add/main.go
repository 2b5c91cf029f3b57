// Chunks-add puts chunks into a DuckDB database, unembedded: the other commands
// embed them later.
//
// It reads one chunk a line:
//
//	{"id":"chunk_123","text":"A passage of text","title":"optional","context":"optional"}
//
// It inserts the chunk into the table, or replaces the chunk with the same id. If
// the table already has the chunk with the same text, title and context, nothing
// changes, and the chunk keeps its vector. If context is not empty, it is embedded
// in place of text. All of the input is added, or nothing is. An error names the
// line.
//
//	jq -c '{id: .slug, text: .body}' posts.json | chunks-add kb.duckdb
//
// The table is created if it does not exist. Its ids are then text. In a table of
// your own the id may also be a whole number or a UUID.
//
// Files that are given are read in place of stdin: gbatch --help has the rules.
//
// Exit codes: 0 done, 1 failed, 2 usage, 5 another process holds the database for
// longer than --lock-timeout, 7 input cut short or malformed.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Add)) }
