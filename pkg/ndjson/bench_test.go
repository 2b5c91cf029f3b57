package ndjson

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// The mixed text changes the length of its runes unpredictably, which is the
// worst case for a validator.
var soups = []struct{ name, words string }{
	{"ascii", "the quick brown fox jumps over a lazy dog, memory model (happens before) goroutine 42"},
	{"cyrillic", "съешь ещё этих мягких французских булок, да выпей чаю; модель памяти 42"},
	{"mixed", "the quick brown fox ещё этих мягких français naïve 東京都 漢字 かな 😀 👩‍👩‍👧 ελληνικά עברית नमस्ते emoji 42"},
}

// soup returns at least n bytes of random words, as the inside of a JSON string.
func soup(words string, n int, escapes bool) string {
	list := strings.Fields(words)
	state := uint32(1)
	var b strings.Builder
	for b.Len() < n {
		state = state*1664525 + 1013904223
		b.WriteString(list[(state>>8)%uint32(len(list))])
		switch {
		case escapes && state>>28 == 0:
			b.WriteString(`\n`)
		default:
			b.WriteByte(' ')
		}
	}
	return b.String()
}

func BenchmarkString(b *testing.B) {
	for _, escapes := range []bool{false, true} {
		for _, s := range soups {
			name := s.name
			if escapes {
				name += "+escapes"
			}
			b.Run(name, func(b *testing.B) {
				line := []byte(`{"text":"` + soup(s.words, 1500, escapes) + `"}`)
				b.SetBytes(int64(len(line)))
				for b.Loop() {
					var w Walker
					for w.Begin(line); w.Next(); {
						w.Raw()
					}
					if w.Err() != nil {
						b.Fatal(w.Err())
					}
				}
			})
		}
	}
}

func BenchmarkUTF8(b *testing.B) {
	for _, s := range soups {
		b.Run(s.name+"/ours", func(b *testing.B) {
			text := []byte(soup(s.words, 100000, false))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if badUTF8(text) >= 0 {
					b.Fatal("invalid")
				}
			}
		})
		b.Run(s.name+"/stdlib", func(b *testing.B) {
			text := []byte(soup(s.words, 100000, false))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if !utf8.Valid(text) {
					b.Fatal("invalid")
				}
			}
		})
	}
}

func BenchmarkWalker(b *testing.B) {
	line := []byte(`{"key":"chunk_100000","batch":"b01K","dim":768,"vector":"AAAA","tokens":123}`)
	var w Walker
	n := 0
	for b.Loop() {
		for w.Begin(line); w.Next(); {
			n += len(w.Raw())
		}
	}
}
