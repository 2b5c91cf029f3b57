package emulator

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxTokens returns how many tokens of a text the model reads, or 0 for no limit
// (ai.google.dev/gemini-api/docs/models).
func maxTokens(model string) int {
	switch {
	case model == "gemini-embedding-001":
		return 2048
	case strings.HasPrefix(model, "gemini-embedding-2"):
		return 8192
	}
	return 0
}

// cut returns the part of text that the model reads. Google truncates a longer
// text without an error.
func cut(model string, text []byte) []byte {
	limit := maxTokens(model)
	if limit == 0 || len(text) <= limit { // no token is shorter than a byte
		return text
	}
	_, end := countTokens(text, limit)
	return text[:end]
}

// tokens returns the number of tokens that the model reads, at least 1. The title
// counts too.
func (it *item) tokens(model string) int64 {
	limit := maxTokens(model)
	title, _ := countTokens(it.title, limit)
	text, _ := countTokens(it.text, limit)
	if n := title + text; limit == 0 || n < limit {
		return int64(max(1, n))
	}
	return int64(limit)
}

// countTokens counts the tokens of a text as far as limit (0 is no limit), and
// returns how many bytes they are. It is not Google's tokenizer, only near to it:
// a token is a digit, a run of punctuation or of line breaks, or some letters of
// a word. How many letters depends on the script.
func countTokens(text []byte, limit int) (n, end int) {
	for at := 0; at < len(text) && (limit == 0 || n < limit); {
		// A space belongs to the token behind it.
		for at < len(text) && text[at] == ' ' {
			at++
		}
		if at == len(text) {
			if n == 0 {
				return 1, at
			}
			return n, at
		}
		at += tokenLength(text[at:])
		n++
		end = at
	}
	return n, end
}

// tokenLength is the length in bytes of the first token of a text.
func tokenLength(text []byte) int {
	switch c := text[0]; {
	case '0' <= c && c <= '9':
		return 1
	case c < ' ':
		return run(text, len(text), func(b byte) bool { return b == c })
	case c < utf8.RuneSelf && !letter(c):
		return run(text, 2, func(b byte) bool { return b > ' ' && b < utf8.RuneSelf && !letter(b) && (b < '0' || b > '9') })
	}
	at, first := 0, per(text)
	for i := 0; i < first.letters && at < len(text); i++ {
		size := 1
		if text[at] >= utf8.RuneSelf {
			_, size = utf8.DecodeRune(text[at:])
		}
		if i > 0 {
			if per(text[at:]) != first {
				break
			}
			// aB begins another word.
			if c, before := text[at], text[at-1]; 'A' <= c && c <= 'Z' && 'a' <= before && before <= 'z' {
				break
			}
		}
		at += size
	}
	return at
}

func run(text []byte, limit int, ok func(byte) bool) int {
	n := 1
	for n < len(text) && n < limit && ok(text[n]) {
		n++
	}
	return n
}

func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// A script is how many letters of it are a token at most.
type script struct {
	id      int
	letters int
}

// per returns the script of the first letter of a text. A sign that is not a
// letter is a token of its own.
func per(text []byte) script {
	if c := text[0]; c < utf8.RuneSelf {
		if letter(c) {
			return script{1, 8}
		}
		return script{0, 1}
	}
	r, _ := utf8.DecodeRune(text)
	switch {
	case r < 0x250: // Latin; an accent often ends a token
		if unicode.IsLetter(r) {
			return script{2, 2}
		}
		return script{0, 1}
	case r < 0x370, r < 0x400: // accents, Greek
		return script{3, 3}
	case r < 0x590: // Cyrillic, Armenian
		return script{4, 5}
	case r < 0x600: // Hebrew
		return script{5, 2}
	case r < 0x900: // Arabic
		return script{6, 4}
	case r < 0x2000 && !unicode.IsPunct(r): // Devanagari, Thai and others
		return script{7, 4}
	case 0x3041 <= r && r <= 0x30ff: // kana
		return script{8, 3}
	case 0x3400 <= r && r <= 0x9fff: // Chinese characters
		return script{9, 2}
	case 0xac00 <= r && r <= 0xd7a3: // Hangul
		return script{10, 2}
	}
	return script{0, 1}
}
