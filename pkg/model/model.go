// Package model is what is known of Google's embedding models: their names,
// the vectors they give, how they are asked, what they count and what they
// cost. A new model is one entry in [models], and one in prices.json.
//
// Sources: ai.google.dev/gemini-api/docs/embeddings for names, limits, dims and
// the words of task types; ai.google.dev/api/embeddings for task types. prices.json
// names its own.
package model

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The space of vectors that is used where nothing says another.
const (
	Default         = "gemini-embedding-001"
	DefaultDim      = 768
	DefaultTaskType = document
)

// MaxDim is the most values a vector may have. Google documents 128 to 3072,
// and gives shorter vectors too.
const MaxDim = 3072

// JobLife is the time after which Google has ended a job. The Gemini API expires a job
// that is still pending or running (ai.google.dev/gemini-api/docs/batch-api, job states).
// A job of Vertex AI waits for up to 72 hours, and then runs for up to 24.
func JobLife(job string) time.Duration {
	if strings.HasPrefix(job, "projects/") {
		return 96 * time.Hour
	}
	return 48 * time.Hour
}

// Unspecified is how Google's API spells "no task type".
const Unspecified = "TASK_TYPE_UNSPECIFIED"

// A Model holds the facts about one model, or about a family of models whose
// names begin alike.
type Model struct {
	Name       string
	Known      bool  // these are facts about the model, and not what does no harm
	MaxTokens  int64 // of one text: Google cuts off the rest without a message
	TaskInText bool  // task type and title are words in the text, not fields beside it
	UnitLength bool  // vectors below MaxDim values have length 1
}

var models = []Model{
	{Name: "gemini-embedding-001", MaxTokens: 2048},
	{Name: "gemini-embedding-2", MaxTokens: 8192, TaskInText: true, UnitLength: true},
}

// Lookup returns the facts about a model. For a model that is not known it
// returns those that do no harm: fields beside the text, the largest limit.
// gemini-embedding-2-preview is of the family gemini-embedding-2.
func Lookup(name string) Model {
	m := Model{MaxTokens: 8192}
	for _, known := range models {
		if name == known.Name || strings.HasPrefix(name, known.Name+"-") {
			m = known
			m.Known = true
		}
	}
	m.Name = name
	return m
}

// A name becomes part of a URL, a file name and a job's display name.
var names = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// Bare takes the prefix off a name: models/x and publishers/google/models/x are
// the model x.
func Bare(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "publishers/google/"), "models/")
}

// Name returns the bare name of a model, or an error where it is not the name
// of one of Google's models.
func Name(s string) (string, error) {
	bare := Bare(s)
	if len(bare) > 128 || !names.MatchString(bare) {
		return "", fmt.Errorf("%.100q is not the name of a model: a name such as %s is 1 to 128 letters, digits, dots, dashes and underscores", s, Default)
	}
	return bare, nil
}

// A Space is what vectors must share to be compared. A member that is empty, or
// zero, is not known.
type Space struct {
	Model    string // bare, see [Name]
	Dim      int    // values per vector
	TaskType string // as Google spells it
}

func (s Space) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %d %s", s.Model, s.Dim, s.TaskType))
}

// Or fills what s does not know from other.
func (s Space) Or(other Space) Space {
	return Space{cmp.Or(s.Model, other.Model), cmp.Or(s.Dim, other.Dim), cmp.Or(s.TaskType, other.TaskType)}
}

// Checked returns s with the bare name of its model, or an error where Google
// would refuse it. A space needs no task type.
func (s Space) Checked() (Space, error) {
	name, err := Name(s.Model)
	if err != nil {
		return s, err
	}
	s.Model = name
	if s.Dim < 1 || s.Dim > MaxDim {
		return s, fmt.Errorf("dim %d is out of range: use 1 to %d", s.Dim, MaxDim)
	}
	if s.TaskType != "" && s.TaskType != Unspecified && !slices.ContainsFunc(tasks, func(t task) bool { return t.name == s.TaskType }) {
		var known []string
		for _, t := range tasks {
			known = append(known, t.name)
		}
		return s, fmt.Errorf("unknown task type %.100q: use %s", s.TaskType, strings.Join(known, ", "))
	}
	return s, nil
}

const (
	document = "RETRIEVAL_DOCUMENT"
	query    = "RETRIEVAL_QUERY"
)

// A task is a task type, with the words that a model with TaskInText wants for
// it. asks is true for a question whose answers are documents.
type task struct {
	name, words string
	asks        bool
}

var tasks = []task{
	{document, "", false}, // has a form of its own
	{query, "search result", true},
	{"SEMANTIC_SIMILARITY", "sentence similarity", false},
	{"CLASSIFICATION", "classification", false},
	{"CLUSTERING", "clustering", false},
	{"QUESTION_ANSWERING", "question answering", true},
	{"FACT_VERIFICATION", "fact checking", true},
	{"CODE_RETRIEVAL_QUERY", "code retrieval", true},
}

// Question returns the space of questions whose answers are in s.
func (s Space) Question() Space {
	if s.TaskType == document {
		s.TaskType = query
	}
	return s
}

// Answers reports whether the vectors of s can be compared with those of a question
// in another space.
func (s Space) Answers(question Space) bool {
	asks := slices.ContainsFunc(tasks, func(t task) bool { return t.asks && t.name == question.TaskType })
	if s.TaskType == document && asks {
		question.TaskType = document
	}
	if s.TaskType == Unspecified {
		s.TaskType = ""
	}
	if question.TaskType == Unspecified {
		question.TaskType = ""
	}
	return s == question
}

// TakesTitle reports whether a request in this space carries the chunk's title,
// as a field or in the text.
func (s Space) TakesTitle() bool { return s.TaskType == document }

// Words are what stands around a text where the model takes task type and title
// in the text. Where it takes them as fields, all are empty.
type Words struct {
	Before      string // before the text of a chunk without a title
	BeforeTitle string // before the title, where there is one
	BehindTitle string // between the title and the text
}

// Words returns the words of the space's task type. They hold nothing that JSON
// would escape.
func (s Space) Words() Words {
	if !Lookup(s.Model).TaskInText {
		return Words{}
	}
	for _, t := range tasks {
		switch {
		case t.name != s.TaskType:
		case t.words == "":
			return Words{Before: "title: none | text: ", BeforeTitle: "title: ", BehindTitle: " | text: "}
		default:
			return Words{Before: "task: " + t.words + " | query: "}
		}
	}
	return Words{}
}
