package render

import (
	"strconv"
	"strings"

	"gbatch/pkg/model"
	"gbatch/pkg/record"
)

var shapes = []string{"rest", "vertex", "sdk"}

// A form is what all requests of a batch have in common: everything but the key
// and the strings of the chunk.
type form struct {
	claimed bool   // there is a header
	text    string // from the start of the request to the text's opening quote
	after   string // from the text's closing quote to the place of the title
	end     string // from there to the end of the request
	title   bool   // whether the request has a field for the title
	words   model.Words
}

// newForm returns the form of a shape's lines:
//
//	rest    EmbedContentRequest as Google's REST API has it
//	vertex  the options in embed_content_config
//	sdk     contents and config, as in Google's SDKs
//
// If the model takes the task type and the title in the text, the form puts both
// there. claimed is true if there is a header. s must be checked.
func newForm(shape string, claimed bool, s model.Space) *form {
	if s.TaskType == model.Unspecified {
		s.TaskType = ""
	}
	f := &form{claimed: claimed, words: s.Words()}
	if model.Lookup(s.Model).TaskInText {
		s.TaskType = ""
	}
	f.title = s.TakesTitle()
	task := func(name string) string {
		if s.TaskType == "" {
			return ""
		}
		return `,"` + name + `":"` + s.TaskType + `"`
	}
	dim := strconv.Itoa(s.Dim)
	const parts = `{"parts":[{"text":"`
	switch shape {
	case "vertex":
		f.text = `{"content":` + parts
		f.after = `}]},"embed_content_config":{"output_dimensionality":` + dim
		f.end = task("task_type") + `}}`
	case "sdk":
		f.text = `{"model":"models/` + s.Model + `","contents":[` + parts
		f.after = `}]}],"config":{` + strings.TrimPrefix(task("task_type")+`,"output_dimensionality":`, ",") + dim
		f.end = `}}`
	default:
		f.text = `{"content":` + parts
		f.after = `}]}` + task("taskType")
		f.end = `,"outputDimensionality":` + dim + `}`
	}
	return f
}

// append appends the request line of a chunk, without its line end.
func (f *form) append(dst []byte, c *record.RawChunk) []byte {
	return append(f.request(record.AppendRequestStart(dst, c.ID, f.claimed), c), '}')
}

// request appends the request of a chunk.
func (f *form) request(dst []byte, c *record.RawChunk) []byte {
	dst = append(dst, f.text...)
	if c.Title != nil && f.words.BeforeTitle != "" {
		dst = append(dst, f.words.BeforeTitle...)
		dst = append(dst, c.Title...)
		dst = append(dst, f.words.BehindTitle...)
	} else {
		dst = append(dst, f.words.Before...)
	}
	if c.Context != nil {
		dst = append(dst, c.Context...)
	} else {
		dst = append(dst, c.Text...)
	}
	dst = append(dst, '"')
	dst = append(dst, f.after...)
	if c.Title != nil && f.title {
		dst = append(dst, `,"title":"`...)
		dst = append(dst, c.Title...)
		dst = append(dst, '"')
	}
	return append(dst, f.end...)
}

// An Online is the form of the requests of online calls in one space. They are
// those of the shape rest, and name their model.
type Online struct{ form }

// NewOnline returns the form for a space, which must be checked.
func NewOnline(s model.Space) *Online {
	f := newForm("rest", false, s)
	f.text = `{"model":"models/` + s.Model + `",` + f.text[1:]
	return &Online{*f}
}

// Append appends the request of a chunk.
func (o *Online) Append(dst []byte, c *record.RawChunk) []byte { return o.request(dst, c) }
