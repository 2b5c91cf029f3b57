// Rival does the work of a filter with a library, as a comparison for gbatch,
// and serves results like Google.
//
//	rival fetch encoding|goccy < results.jsonl
//	rival to-jsonl encoding|goccy < chunks.ndjson
//	rival serve FOLDER
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"

	goccy "github.com/goccy/go-json"

	"gbatch/pkg/record"
)

func main() {
	var err error
	switch os.Args[1] {
	case "fetch":
		err = fetch(os.Args[2])
	case "to-jsonl":
		err = toJSONL(os.Args[2])
	case "serve":
		err = serve(os.Args[2])
	default:
		err = fmt.Errorf("unknown work %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rival: error:", err)
		os.Exit(1)
	}
}

type encoder interface{ Encode(any) error }

// library returns the decoder and the encoder of a JSON library.
func library(name string, w io.Writer) (func([]byte, any) error, encoder) {
	if name == "goccy" {
		e := goccy.NewEncoder(w)
		e.SetEscapeHTML(false)
		return goccy.Unmarshal, e
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return json.Unmarshal, e
}

// each calls f with every line of the input.
func each(f func(line []byte) error) error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 16<<20)
	for in.Scan() {
		if err := f(in.Bytes()); err != nil {
			return err
		}
	}
	return in.Err()
}

// A response is a line of Google's results.
type response struct {
	Key      string         `json:"key"`
	Error    *record.Status `json:"error"`
	Response *struct {
		TokenCount int64 `json:"tokenCount,string"`
		Embedding  struct {
			Values []float32 `json:"values"`
		} `json:"embedding"`
	} `json:"response"`
}

func fetch(name string) error {
	out := bufio.NewWriterSize(os.Stdout, 256<<10)
	unmarshal, e := library(name, out)
	var packed []byte
	err := each(func(line []byte) error {
		var r response
		if err := unmarshal(line, &r); err != nil {
			return err
		}
		if r.Error != nil {
			return e.Encode(record.KeyError{Key: r.Key, Batch: "b01", Error: *r.Error})
		}
		packed = packed[:0]
		for _, v := range r.Response.Embedding.Values {
			packed = binary.LittleEndian.AppendUint32(packed, math.Float32bits(v))
		}
		return e.Encode(record.Vector{Key: r.Key, Batch: "b01", Dim: len(r.Response.Embedding.Values), Vector: packed, Tokens: r.Response.TokenCount})
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// A request is a line of Google's batch file.
type request struct {
	Key     string `json:"key"`
	Claimed bool   `json:"claimed"`
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

// toJSONL also passes headers on.
func toJSONL(name string) error {
	out := bufio.NewWriterSize(os.Stdout, 256<<10)
	unmarshal, e := library(name, out)
	var h record.Header
	err := each(func(line []byte) error {
		var l struct {
			record.Header
			record.Chunk
		}
		if err := unmarshal(line, &l); err != nil {
			return err
		}
		if l.Count > 0 {
			h = l.Header
			return e.Encode(h)
		}
		var r request
		r.Key, r.Claimed = l.ID, true
		r.Request.Content.Parts = []part{{l.Text}}
		r.Request.TaskType, r.Request.Title, r.Request.OutputDimensionality = h.TaskType, l.Title, h.Dim
		return e.Encode(&r)
	})
	if err != nil {
		return err
	}
	return out.Flush()
}
