// text-to-chunks cuts files of Markdown and plain text into chunks.
//
//	text-to-chunks docs/*.md | chunks-add kb.duckdb --sync-prefix docs/
//	find notes -name '*.md' -print0 | text-to-chunks -0 -o chunks.ndjson
//
// It takes the names of files as arguments. Without arguments it reads the names from
// stdin, one a line, or with -0 each with a NUL at its end. For each file it prints
// its chunks, in their order:
//
//	{"id":"docs/a.md#Animals/Gophers","text":"## Gophers\n\nThey dig.","title":"Animals > Gophers"}
//
// Files whose names end in .md, .markdown, .mdown, .mkd or .mdx are Markdown. They are
// cut at their headings. The title of a chunk is its heading, after the headings above
// it. A heading without text below it is added to the section that follows, if that is
// below it. Front matter (YAML or TOML) is left out. Nothing else is left out or
// changed: the texts of all chunks are the file, except for blank lines between them.
//
// An id is the name of the file and the headings, so it does not change if another
// section is inserted, removed or edited:
//
//	docs/a.md                      what is before the first heading, or plain text
//	docs/a.md#Animals/Gophers      ## Gophers below # Animals
//	docs/a.md#Animals/Gophers~2    the second ## Gophers there
//	docs/a.md#Animals/Gophers~p2   the second part of a section that is too long
//
// No two ids are equal: in headings / is written as %2F and ~ as %7E, in names of files
// # is written as %23. A heading of more than 120 bytes is cut, and gets a hash. The
// name of a file is as you write it, without ./ at its start: use the same folder each
// time.
//
// A section of more than --max-tokens tokens is cut into parts: between paragraphs,
// lists, tables and blocks of code, which stay whole if they fit; else after a
// sentence, a line or a word. Tokens are estimated, with the title. The models read
// 2,048 tokens (gemini-embedding-001) or 8,192 (gemini-embedding-2), and do not report
// what they cut off. The default leaves room for the error of the estimate.
//
// A file that cannot be read, is binary, larger than 64 MiB or not UTF-8 is left out,
// with a warning that names it. The exit code is then 3. Otherwise the last line is
// {"end":true}. chunks-add --sync-prefix refuses chunks without it, so that it does not
// remove the chunks of a file that was left out.
//
// --output writes a file whole or not at all: gbatch --help has the rules.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 done, but some files were left out.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/split"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(split.Files)) }
