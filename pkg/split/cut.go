package split

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"gbatch/pkg/model"
)

// A cutter divides sections into chunks that are not too long.
type cutter struct {
	most   int64 // tokens of a chunk, with its title
	tokens *model.Estimator
}

func (c *cutter) fits(title, text string) bool {
	return c.tokens.Request(title, trim(text)).Uncut <= c.most
}

// title returns the headings of a section in one line. It leaves out the outermost
// ones, and then the end of the last one, if they would take more than a quarter of
// a chunk.
func (c *cutter) title(headings []heading) string {
	short := cutter{c.most / 4, c.tokens}
	for ; len(headings) > 0; headings = headings[1:] {
		var texts []string
		for _, h := range headings {
			if h.text != "" {
				texts = append(texts, h.text)
			}
		}
		title := strings.Join(texts, " > ")
		for len(headings) == 1 && !short.fits(title, "") {
			title = strings.TrimSpace(title[:half(title)])
		}
		if short.fits(title, "") {
			return title
		}
	}
	return ""
}

// cut returns the texts of the chunks of a section.
func (c *cutter) cut(title string, blocks []block) (texts []string) {
	var pieces []string
	for _, b := range blocks {
		pieces = append(pieces, c.divide(title, b.text, b.rigid, 0)...)
	}
	own := c.tokens.Request(title, "").Uncut
	for len(pieces) > 0 {
		// The sum of the pieces' tokens is near to the tokens of their whole.
		n, sum := 1, own+c.tokens.Request("", pieces[0]).Uncut
		for ; n < len(pieces); n++ {
			if sum += c.tokens.Request("", pieces[n]).Uncut; sum > c.most {
				break
			}
		}
		text := strings.Join(pieces[:n], "")
		for ; n > 1 && !c.fits(title, text); n-- {
			text = strings.TrimSuffix(text, pieces[n-1])
		}
		pieces = pieces[n:]
		if text = trim(text); text != "" {
			texts = append(texts, text)
		}
	}
	return texts
}

// levels are the places where a text that is too long is cut, from the best to the
// worst.
var levels = []*regexp.Regexp{
	regexp.MustCompile(`\n[ \t\r\f\v]*\n`),                 // after a paragraph
	regexp.MustCompile(`[.!?…]["'”’»)\]]*\s+|[。！？][」』”]*`), // after a sentence
	regexp.MustCompile(`\n`),
	regexp.MustCompile(`\s+`),
}

const sentences = 1

// divide cuts a text into pieces that fit, at the best places of which there are
// enough.
func (c *cutter) divide(title, text string, rigid bool, level int) (pieces []string) {
	switch {
	case c.fits(title, text):
		return []string{text}
	case rigid && level == sentences:
		return c.divide(title, text, rigid, level+1)
	case level == len(levels):
		at := half(text)
		return append(c.divide(title, text[:at], rigid, level), c.divide(title, text[at:], rigid, level)...)
	}
	from := 0
	for _, place := range append(levels[level].FindAllStringIndex(text, -1), []int{0, len(text)}) {
		if place[1] > from {
			pieces = append(pieces, c.divide(title, text[from:place[1]], rigid, level+1)...)
			from = place[1]
		}
	}
	return pieces
}

// half returns the offset of a character near the middle of a text.
func half(text string) int {
	at := len(text) / 2
	for at > 0 && !utf8.RuneStart(text[at]) {
		at--
	}
	return at
}

// trim removes blank lines before a text, and white space after it. It keeps the
// indentation of the first line.
func trim(text string) string {
	text = strings.TrimRight(text, " \t\r\n\f\v")
	start := len(text) - len(strings.TrimLeft(text, " \t\r\n\f\v"))
	return text[strings.LastIndexByte(text[:start], '\n')+1:]
}
