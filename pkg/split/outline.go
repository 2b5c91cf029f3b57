package split

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A heading is one heading above a section.
type heading struct {
	level int
	id    string // its place in the outline: the ids of the headings above it, and its own
	text  string
}

// An outline gives headings their ids. The id of a heading depends on its text, on
// the headings above it, and on how many headings with the same text precede it
// below the same one, and on nothing else.
type outline struct {
	above []heading
	seen  map[string]int // headings by the id that they have or would have
}

// enter returns the headings above a new one, and it.
func (o *outline) enter(level int, text string) []heading {
	if o.seen == nil {
		o.seen = map[string]int{}
	}
	for len(o.above) > 0 && o.above[len(o.above)-1].level >= level {
		o.above = o.above[:len(o.above)-1]
	}
	id := name(text)
	if len(o.above) > 0 {
		id = o.above[len(o.above)-1].id + "/" + id
	}
	o.seen[id]++
	if n := o.seen[id]; n > 1 {
		id = fmt.Sprintf("%s~%d", id, n)
	}
	o.above = append(o.above, heading{level, id, text})
	return slices.Clone(o.above)
}

// longest is the number of bytes of a heading in an id.
const longest = 120

// name returns a heading as a part of an id. It contains no slash, and a tilde only
// where name adds it: as the name of a heading without text, and before the hash of
// a heading that is cut.
func name(text string) string {
	if text == "" {
		return "~"
	}
	s := escape(text, "/~")
	if len(s) <= longest {
		return s
	}
	cut := longest
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s~x%x", s[:cut], sha256.Sum256([]byte(text)))[:cut+2+16]
}

// escape writes the characters of special as percent escapes. Different texts stay
// different: a percent sign is escaped if it would begin an escape.
func escape(s, special string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		begins := c == '%' && i+2 < len(s) && slices.Contains([]string{"25", "2F", "7E", "23"}, s[i+1:i+3])
		if begins || strings.IndexByte(special, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
