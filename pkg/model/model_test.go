package model

import (
	"strings"
	"testing"
	"time"
)

func TestName(t *testing.T) {
	for name, want := range map[string]string{
		"gemini-embedding-001":                          "gemini-embedding-001",
		"models/gemini-embedding-001":                   "gemini-embedding-001",
		"publishers/google/models/gemini-embedding-001": "gemini-embedding-001",
		"text_embedding.v4":                             "text_embedding.v4",
		"":                                              "",
		"models/":                                       "",
		"tunedModels/mine":                              "",
		"models/models/a":                               "",
		"a b":                                           "",
		"a\nb":                                          "",
		"a\x00":                                         "",
		"модель":                                        "",
		"../a":                                          "",
		"-a":                                            "",
		strings.Repeat("a", 128):                        strings.Repeat("a", 128),
		strings.Repeat("a", 129):                        "",
	} {
		got, err := Name(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestLookup(t *testing.T) {
	for name, want := range map[string]struct {
		tokens int64
		inText bool
	}{
		"gemini-embedding-001":       {2048, false},
		"gemini-embedding-2":         {8192, true},
		"gemini-embedding-2-preview": {8192, true},
		"gemini-embedding-20":        {8192, false},
		"another":                    {8192, false},
	} {
		m := Lookup(name)
		if m.Name != name || m.MaxTokens != want.tokens || m.TaskInText != want.inText {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func TestSpace(t *testing.T) {
	usual := Space{Default, DefaultDim, DefaultTaskType}
	for _, test := range []struct {
		s  Space
		ok bool
	}{
		{usual, true},
		{Space{Default, MaxDim, ""}, true},
		{Space{"models/" + Default, 1, Unspecified}, true},
		{Space{"a b", 768, ""}, false},
		{Space{Default, 0, ""}, false},
		{Space{Default, MaxDim + 1, ""}, false},
		{Space{Default, 768, "retrieval_document"}, false},
	} {
		got, err := test.s.Checked()
		if (err == nil) != test.ok || err == nil && got.Model != Default {
			t.Errorf("%v: %v, %v", test.s, got, err)
		}
	}
	if got := (Space{Dim: 3}).Or(usual); got != (Space{Default, 3, DefaultTaskType}) {
		t.Errorf("filled: %v", got)
	}
	for _, test := range []struct {
		s     Space
		title bool
		want  Words
	}{
		{usual, true, Words{}},
		{Space{"gemini-embedding-2", 768, "RETRIEVAL_DOCUMENT"}, true, Words{"title: none | text: ", "title: ", " | text: "}},
		{Space{"gemini-embedding-2", 768, "FACT_VERIFICATION"}, false, Words{Before: "task: fact checking | query: "}},
		{Space{"gemini-embedding-2", 768, ""}, false, Words{}},
	} {
		if got := test.s.Words(); got != test.want || test.s.TakesTitle() != test.title {
			t.Errorf("%v: %+v, title %v", test.s, got, test.s.TakesTitle())
		}
	}
}

func TestAnswers(t *testing.T) {
	space := func(model string, dim int, task string) Space { return Space{model, dim, task} }
	for _, c := range []struct {
		documents, question Space
		want                bool
	}{
		{space("m", 3, "RETRIEVAL_DOCUMENT"), space("m", 3, "RETRIEVAL_QUERY"), true},
		{space("m", 3, "RETRIEVAL_DOCUMENT"), space("m", 3, "CODE_RETRIEVAL_QUERY"), true},
		{space("m", 3, "RETRIEVAL_DOCUMENT"), space("m", 3, "RETRIEVAL_DOCUMENT"), true},
		{space("m", 3, "RETRIEVAL_DOCUMENT"), space("m", 3, "CLUSTERING"), false},
		{space("m", 3, "RETRIEVAL_DOCUMENT"), space("m", 4, "RETRIEVAL_QUERY"), false},
		{space("m", 3, "RETRIEVAL_DOCUMENT"), space("n", 3, "RETRIEVAL_QUERY"), false},
		{space("m", 3, "CLUSTERING"), space("m", 3, "CLUSTERING"), true},
		{space("m", 3, "CLUSTERING"), space("m", 3, "RETRIEVAL_QUERY"), false},
		{space("m", 3, "RETRIEVAL_QUERY"), space("m", 3, "RETRIEVAL_DOCUMENT"), false},
		{space("m", 3, ""), space("m", 3, "TASK_TYPE_UNSPECIFIED"), true},
		{space("m", 3, ""), space("m", 3, "RETRIEVAL_QUERY"), false},
	} {
		if got := c.documents.Answers(c.question); got != c.want {
			t.Errorf("%v and %v: %t", c.documents, c.question, got)
		}
		if q := c.documents.Question(); !c.documents.Answers(q) {
			t.Errorf("%v cannot be asked with %v", c.documents, q)
		}
	}
}

func TestJobLife(t *testing.T) {
	for job, want := range map[string]time.Duration{
		"batches/abc": 48 * time.Hour, "projects/1/locations/us-central1/batchPredictionJobs/2": 96 * time.Hour, "": 48 * time.Hour,
	} {
		if got := JobLife(job); got != want {
			t.Errorf("%s lives %v, want %v", job, got, want)
		}
	}
}
