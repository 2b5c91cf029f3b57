package render

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"gbatch/pkg/ndjson"
)

var shapes = []string{"rest", "vertex", "sdk"}

// unspecified is how Google's API spells "no task type".
const unspecified = "TASK_TYPE_UNSPECIFIED"

// tasks are Google's task types, with the words that gemini-embedding-2 wants
// in the text instead (https://ai.google.dev/gemini-api/docs/embeddings).
var tasks = []struct{ taskType, words string }{
	{"RETRIEVAL_DOCUMENT", ""}, // has a form of its own
	{"RETRIEVAL_QUERY", "search result"},
	{"SEMANTIC_SIMILARITY", "sentence similarity"},
	{"CLASSIFICATION", "classification"},
	{"CLUSTERING", "clustering"},
	{"QUESTION_ANSWERING", "question answering"},
	{"FACT_VERIFICATION", "fact checking"},
	{"CODE_RETRIEVAL_QUERY", "code retrieval"},
}

// A space is what vectors must share to be compared.
type space struct {
	model    string
	dim      int
	taskType string
}

// or fills what s does not say from other.
func (s space) or(other space) space {
	if s.model == "" {
		s.model = other.model
	}
	if s.dim == 0 {
		s.dim = other.dim
	}
	if s.taskType == "" {
		s.taskType = other.taskType
	}
	return s
}

// environment is what the variables say that stand in for flags. They are meant
// for several commands, and give way to a header; a flag is meant for this one.
func environment() space {
	dim, _ := strconv.Atoi(os.Getenv("GBATCH_DIM"))
	return space{os.Getenv("GBATCH_MODEL"), dim, os.Getenv("GBATCH_TASK_TYPE")}
}

// without is s but for what it has in common with other.
func (s space) without(other space) space {
	if s.model == other.model {
		s.model = ""
	}
	if s.dim == other.dim {
		s.dim = 0
	}
	if s.taskType == other.taskType {
		s.taskType = ""
	}
	return s
}

// conflict names the first flag that was given and is not what the header
// says. A header without a task type says that there is none.
func (flags space) conflict(header space) (flag string, ok bool) {
	none := func(t string) string { return strings.TrimPrefix(t, unspecified) }
	switch {
	case flags.model != "" && header.model != "" && flags.model != header.model:
		return "model", true
	case flags.dim != 0 && header.dim != 0 && flags.dim != header.dim:
		return "dim", true
	case flags.taskType != "" && none(flags.taskType) != none(header.taskType):
		return "task-type", true
	}
	return "", false
}

func (s space) check() error {
	if strings.ContainsFunc(s.model, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%.100q is not the name of a model", s.model)
	}
	if s.dim < 1 || s.dim > maxDim {
		return fmt.Errorf("dim %d is out of range: use 1 to %d", s.dim, maxDim)
	}
	if s.taskType == "" || s.taskType == unspecified {
		return nil
	}
	var known []string
	for _, t := range tasks {
		known = append(known, t.taskType)
	}
	if !slices.Contains(known, s.taskType) {
		return fmt.Errorf("unknown task type %.100q: use %s", s.taskType, strings.Join(known, ", "))
	}
	return nil
}

// A form is what all the lines of a batch have in common: everything but
// {"key": and the strings in between.
type form struct {
	text  string // from behind the key to the text's opening quote
	after string // from the text's closing quote to where the title goes
	end   string // from there
	title bool   // whether the request takes a title

	// For models that read the task in the text: what stands before the text
	// if there is no title, or before and behind the title.
	prefix, beforeTitle, behindTitle string
}

// newForm returns the form of a shape's lines:
//
//	rest    EmbedContentRequest as Google's REST API has it
//	vertex  the options in embed_content_config
//	sdk     contents and config, as in Google's SDKs
//
// gemini-embedding-2 ignores task type and title. Google's documentation puts
// both into the text, and so does the form.
func newForm(shape string, s space) *form {
	if s.taskType == unspecified {
		s.taskType = ""
	}
	f := new(form)
	if strings.HasPrefix(s.model, "gemini-embedding-2") {
		f.words(s.taskType)
		s.taskType = ""
	}
	f.title = s.taskType == "RETRIEVAL_DOCUMENT"
	task := func(name string) string {
		if s.taskType == "" {
			return ""
		}
		return `,"` + name + `":"` + s.taskType + `"`
	}
	dim := strconv.Itoa(s.dim)
	const parts = `{"parts":[{"text":"`
	switch shape {
	case "vertex":
		f.text = `,"request":{"content":` + parts
		f.after = `}]},"embed_content_config":{"output_dimensionality":` + dim
		f.end = task("task_type") + `}}}`
	case "sdk":
		model := ndjson.AppendString(nil, "models/"+strings.TrimPrefix(s.model, "models/"))
		f.text = `,"request":{"model":` + string(model) + `,"contents":[` + parts
		f.after = `}]}],"config":{` + strings.TrimPrefix(task("task_type")+`,"output_dimensionality":`, ",") + dim
		f.end = `}}}`
	default:
		f.text = `,"request":{"content":` + parts
		f.after = `}]}` + task("taskType")
		f.end = `,"outputDimensionality":` + dim + `}}`
	}
	return f
}

// words sets the prefixes for a task type.
func (f *form) words(taskType string) {
	for _, t := range tasks {
		switch {
		case t.taskType != taskType:
		case t.words == "":
			f.beforeTitle, f.behindTitle = "title: ", " | text: "
			f.prefix = f.beforeTitle + "none" + f.behindTitle
		default:
			f.prefix = "task: " + t.words + " | query: "
		}
	}
}

// append appends a request line without its line end. id, text and title are
// the insides of JSON strings, title nil where there is none.
func (f *form) append(dst, id, text, title []byte) []byte {
	dst = append(dst, `{"key":"`...)
	dst = append(dst, id...)
	dst = append(dst, '"')
	dst = append(dst, f.text...)
	if title != nil && f.beforeTitle != "" {
		dst = append(dst, f.beforeTitle...)
		dst = append(dst, title...)
		dst = append(dst, f.behindTitle...)
	} else {
		dst = append(dst, f.prefix...)
	}
	dst = append(dst, text...)
	dst = append(dst, '"')
	dst = append(dst, f.after...)
	if title != nil && f.title {
		dst = append(dst, `,"title":"`...)
		dst = append(dst, title...)
		dst = append(dst, '"')
	}
	return append(dst, f.end...)
}
