package split

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// A section is a heading with what belongs to it, up to the next heading. A file
// begins with a section without a heading.
type section struct {
	headings []heading // from the outermost to the section's own
	blocks   []block   // the first one begins with the headings
}

// A block is a part of a section that stays whole if it fits into a chunk: a
// paragraph, a list, a table, a block of code.
type block struct {
	text  string
	rigid bool // its lines belong together, but its sentences do not: code, a table
}

// markdown divides a text into sections. Every line of the text is in one of them,
// also what Markdown does not show, except for the front matter.
func markdown(source []byte) (sections []section) {
	source = source[frontMatter(source):]
	doc := goldmark.New(goldmark.WithParserOptions(parser.WithHeadingAttribute())).Parser().Parse(text.NewReader(source))
	var o outline
	now := section{}
	start, rigid := 0, false // of the present block
	end := func(at int) {
		if s := string(source[start:at]); strings.TrimSpace(s) != "" {
			now.blocks = append(now.blocks, block{s, rigid || table.MatchString(s)})
		}
		start = at
	}
	titled := false // the present block is a heading, and takes the next block in
	for n := doc.FirstChild(); n != nil; n = n.NextSibling() {
		at := bytes.LastIndexByte(source[:max(n.Pos(), start)], '\n') + 1
		if h, ok := n.(*ast.Heading); ok && at >= start {
			below := titled && h.Level > now.headings[len(now.headings)-1].level // a heading without text takes the next section in
			if !below {
				end(at)
				sections = append(sections, now)
			}
			now = section{headings: o.enter(h.Level, words(h, source))}
			titled, rigid = true, false
			continue
		}
		if !titled && at > start {
			end(at)
		}
		titled = false
		switch n.(type) {
		case *ast.CodeBlock, *ast.FencedCodeBlock, *ast.HTMLBlock:
			rigid = true
		default:
			rigid = false
		}
	}
	end(len(source))
	return append(sections, now)
}

// table matches the beginning of a table: a row, and a row of dashes.
var table = regexp.MustCompile(`^\s*[^\n]*\|[^\n]*\n[ \t]*\|?[ \t]*:?-+:?[ \t]*(\|[ \t:|-]*)?\r?(\n|$)`)

// words returns the text of a heading, without markup, on one line.
func words(h *ast.Heading, source []byte) string {
	var b strings.Builder
	ast.Walk(h, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Text:
			value := n.Segment.Value(source)
			if n.Parent().Kind() != ast.KindCodeSpan {
				value = util.UnescapePunctuations(util.ResolveEntityNames(util.ResolveNumericReferences(value)))
			}
			b.Write(value)
			if n.SoftLineBreak() || n.HardLineBreak() {
				b.WriteByte(' ')
			}
		case *ast.String:
			b.Write(n.Value)
		case *ast.AutoLink:
			b.Write(n.Label(source))
		}
		return ast.WalkContinue, nil
	})
	return strings.Join(strings.Fields(b.String()), " ")
}

var yaml = regexp.MustCompile(`\A(?:---[ \t]*\r?\n(?:[ \t]*(?:#[^\n]*)?\r?\n)*["'\w][^\n]*:(?s:.*?)(?:\r?\n)(?:---|\.\.\.)|\+\+\+[ \t]*\r?\n(?s:.*?\n)?\+\+\+)[ \t]*(?:\r?\n|\z)`)

// frontMatter returns the length of the metadata at the beginning of a text: YAML
// between lines of dashes, or TOML between lines of plus signs.
func frontMatter(source []byte) int { return len(yaml.Find(source)) }
