package render

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// The mixed text changes the length of its runes unpredictably, which is the
// worst case for a validator.
var soups = []struct{ name, words string }{
	{"ascii", "the quick brown fox jumps over a lazy dog, memory model (happens before) goroutine 42"},
	{"mixed", "the quick brown fox ещё этих мягких français naïve 東京都 漢字 かな 😀 👩‍👩‍👧 ελληνικά עברית नमस्ते emoji 42"},
}

// soup returns a batch of n chunks of about 1.5 KB, with a line break or a quote
// after about every sixteenth word.
func soup(words string, n int) []byte {
	list := strings.Fields(words)
	state := uint32(1)
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"batch\":\"b01\",\"count\":%d,\"model\":\"gemini-embedding-001\",\"dim\":768,\"task_type\":\"RETRIEVAL_DOCUMENT\"}\n", n)
	for i := range n {
		fmt.Fprintf(&b, `{"id":"chunk_%d","text":"`, i)
		for end := b.Len() + 1500; b.Len() < end; {
			state = state*1664525 + 1013904223
			b.WriteString(list[(state>>8)%uint32(len(list))])
			switch state >> 27 {
			case 0:
				b.WriteString(`\n`)
			case 1:
				b.WriteString(`\"`)
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString("\",\"title\":\"Chapter one\"}\n")
	}
	return b.Bytes()
}

// requestLine is the line for a program that decodes and encodes structs.
type requestLine struct {
	Key     string `json:"key"`
	Request struct {
		Content struct {
			Parts []part `json:"parts"`
		} `json:"content"`
		TaskType             string `json:"taskType,omitempty"`
		Title                string `json:"title,omitempty"`
		OutputDimensionality int    `json:"outputDimensionality"`
	} `json:"request"`
}

type part struct {
	Text string `json:"text"`
}

// structs is that program.
func structs(in []byte, out io.Writer, unmarshal func([]byte, any) error, encode func(any) error) error {
	first := true
	for line := range bytes.Lines(in) {
		if first {
			first = false
			if _, err := out.Write(line); err != nil {
				return err
			}
			continue
		}
		var c record.Chunk
		if err := unmarshal(line, &c); err != nil {
			return err
		}
		var r requestLine
		r.Key = c.ID
		r.Request.Content.Parts = []part{{c.Text}}
		r.Request.TaskType, r.Request.Title, r.Request.OutputDimensionality = "RETRIEVAL_DOCUMENT", c.Title, 768
		if err := encode(&r); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkToJSONL reports input bytes.
func BenchmarkToJSONL(b *testing.B) {
	for _, s := range soups {
		in := soup(s.words, 10_000)
		b.Run(s.name+"/ours", func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				if err := new(ToJSONL).Run(context.Background(), bytes.NewReader(in), io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(s.name+"/encoding_json", func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			enc := json.NewEncoder(io.Discard)
			enc.SetEscapeHTML(false)
			for b.Loop() {
				if err := structs(in, io.Discard, json.Unmarshal, enc.Encode); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(s.name+"/goccy", func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			w := ndjson.NewWriter(io.Discard)
			for b.Loop() {
				if err := structs(in, io.Discard, ndjson.Unmarshal, w.Encode); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
