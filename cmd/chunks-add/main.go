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
// With --sync-prefix it also removes the chunks whose ids begin with the prefix and
// that are not in the input, in the same transaction: those of files or sections that
// do not exist any more. It never touches other chunks. The vectors of removed chunks
// stay in the database, so that a chunk that comes back costs nothing. End a prefix of a
// folder with a slash: docs is also the beginning of docs2/a.md. An id that does
// not begin with the prefix is refused. The last line must be {"end":true}, as
// text-to-chunks prints it if it left nothing out: if the command before the pipe
// fails, nothing is removed. --force accepts an input without that line, or without
// chunks.
//
//	text-to-chunks docs/*.md | chunks-add kb.duckdb --sync-prefix docs/
//	{ jq -c '{id: "posts/\(.slug)", text: .body}' posts.json && echo '{"end":true}'; } | chunks-add kb.duckdb --sync-prefix posts/
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
