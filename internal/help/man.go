package help

import (
	"fmt"
	"go/doc/comment"
	"regexp"
	"strings"
	"unicode/utf8"

	"gbatch/pkg/cli"
)

// A page is a manual page in roff's macros for manuals.
type page struct{ strings.Builder }

func (p *page) macro(line string, args ...any) { fmt.Fprintf(p, "."+line+"\n", args...) }

// text writes a line of text.
func (p *page) text(s string) {
	s = roff(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		p.WriteString(`\&`)
	}
	p.WriteString(s + "\n")
}

// roff escapes what roff would change or obey. A dash remains one that can be
// copied to a shell.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\[u%04X]`, r)
		}
	}
	return b.String()
}

// blocks writes a part of a package comment, below a heading.
func (p *page) blocks(all []comment.Block) {
	below := true
	paragraph := func() {
		if !below {
			p.macro("PP")
		}
		below = false
	}
	for _, b := range all {
		switch b := b.(type) {
		case *comment.Heading:
			p.macro("SH %s", strings.ToUpper(plain(b.Text)))
			below = true
		case *comment.Paragraph:
			paragraph()
			p.text(plain(b.Text))
		case *comment.Code:
			paragraph()
			p.macro("RS 4\n.nf")
			for line := range strings.Lines(b.Text) {
				p.text(strings.TrimSuffix(line, "\n"))
			}
			p.macro("fi\n.RE")
		case *comment.List:
			for _, item := range b.Items {
				p.macro(`IP \(bu 2`)
				for _, c := range item.Content {
					if c, ok := c.(*comment.Paragraph); ok {
						p.text(plain(c.Text))
					}
				}
			}
		}
	}
}

// plain returns the text of a paragraph in one line.
func plain(all []comment.Text) string {
	var b strings.Builder
	for _, t := range all {
		switch t := t.(type) {
		case comment.Plain:
			b.WriteString(string(t))
		case comment.Italic:
			b.WriteString(string(t))
		case *comment.Link:
			b.WriteString(plain(t.Text))
		case *comment.DocLink:
			b.WriteString(plain(t.Text))
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// code is an exit code and what it means, in a paragraph of exit codes.
var code = regexp.MustCompile(`(?:^|, )(\d+) `)

// page returns the manual page of a command. The last paragraphs of its manual
// are the sections on its environment and its exit codes.
func (s *suite) page(c command) string {
	var p page
	p.title(strings.ToUpper(c.name), 1)
	p.text(c.name + " - " + c.summary)
	p.macro("SH SYNOPSIS")
	p.text(c.name + " " + c.usage.Line)
	p.macro("SH DESCRIPTION")
	environment, codes := "", ""
	var rest []comment.Block
	for _, b := range new(comment.Parser).Parse(c.manual).Content {
		text := ""
		if b, ok := b.(*comment.Paragraph); ok {
			text = plain(b.Text)
		}
		if after, ok := strings.CutPrefix(text, "Environment: "); ok {
			environment = after
		} else if after, ok := strings.CutPrefix(text, "Exit codes: "); ok {
			codes = after
		} else {
			rest = append(rest, b)
		}
	}
	p.blocks(rest)
	p.macro("SH OPTIONS")
	for _, f := range append(c.usage.Args, c.usage.Flags...) {
		p.option(f)
	}
	p.macro("SH ENVIRONMENT")
	if environment != "" {
		p.text(environment)
		p.macro("PP")
	}
	p.text("The value of an option may also be in the variable that is named there. gbatch(7) has the variables of all commands.")
	p.macro("SH EXIT STATUS")
	at := code.FindAllStringSubmatchIndex(codes, -1)
	for i, m := range at {
		end := len(codes)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		p.macro("TP\n%s", codes[m[2]:m[3]])
		p.text(strings.TrimSuffix(codes[m[1]:end], "."))
	}
	if at != nil {
		p.macro("PP")
	}
	p.text("gbatch(7) has the codes of all commands.")
	p.also(s.commands, c.name)
	return p.String()
}

// option writes a flag or an argument.
func (p *page) option(f cli.Flag) {
	p.macro("TP")
	value := ""
	if f.Value != "" {
		value = ` \fI` + roff(f.Value) + `\fR`
	}
	switch {
	case f.Argument:
		p.WriteString(strings.TrimSpace(value))
	case f.Short != "":
		fmt.Fprintf(p, `\fB\-%s\fR, `, f.Short)
		fallthrough
	default:
		fmt.Fprintf(p, `\fB\-\-%s\fR%s`, roff(f.Name), value)
	}
	p.WriteString("\n")
	text := f.Help
	if f.Default != "" && f.Value != "" {
		text += " Default: " + f.Default + "."
	}
	if f.Variable != "" {
		text += " Variable: " + f.Variable + "."
	}
	p.text(text)
}

// overview returns the manual page of the suite.
func (s *suite) overview() string {
	var p page
	p.title("GBATCH", 7)
	p.text("gbatch - " + "commands that keep a DuckDB table of chunks embedded")
	p.macro("SH SYNOPSIS")
	p.text("gbatch COMMAND [ARGUMENT]…")
	p.macro("br")
	p.text("COMMAND [ARGUMENT]…")
	p.macro("SH DESCRIPTION")
	p.blocks(new(comment.Parser).Parse(strings.TrimPrefix(s.manual, "Package ")).Content)
	p.also(s.commands, "")
	return p.String()
}

func (p *page) title(name string, section int) {
	version, date := cli.Version()
	p.macro(`TH "%s" %d "%s" "gbatch %s" "gbatch"`, roff(name), section, date, roff(version))
	p.macro("nh\n.ad l\n.SH NAME")
}

// also writes the last section.
func (p *page) also(commands []command, but string) {
	p.macro("SH SEE ALSO")
	var names []string
	if but != "" {
		names = append(names, "gbatch(7)")
	}
	for _, c := range commands {
		if c.name != but {
			names = append(names, c.name+"(1)")
		}
	}
	p.text(strings.Join(names, ", "))
}
