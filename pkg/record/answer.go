package record

import (
	"errors"

	"gbatch/pkg/ndjson"
)

// An Answer is one line of what fetch prints, and of what submit and wait do:
// a job, or else the vector or the error of a key.
type Answer struct {
	Key    string
	Batch  string
	Values []float32 // valid until the next call of the parser
	Tokens int64     // -1 where the line has none
	Err    *Status
	Job    *Job
}

// An AnswerParser reads answers. It is for one goroutine.
type AnswerParser struct{ line VectorLine }

// Parse reads a line.
func (p *AnswerParser) Parse(line []byte) (Answer, error) {
	if p.line.fast(line) {
		return p.vector(), nil
	}
	var job, failure, values bool
	err := ndjson.Object(line, func(name, value []byte) error {
		switch string(name) {
		case "job":
			job = true
		case "error":
			failure = true
		case "vector":
			values = true
		}
		return nil
	})
	switch {
	case err != nil:
		return Answer{}, err
	case job:
		j, err := ParseJob(line)
		if err != nil {
			return Answer{}, err
		}
		return Answer{Batch: j.Batch, Job: j}, nil
	case failure:
		var e KeyError
		if err := ndjson.Unmarshal(line, &e); err != nil {
			return Answer{}, err
		}
		if e.Key == "" {
			return Answer{}, errors.New("the error has no key")
		}
		return Answer{Key: e.Key, Batch: e.Batch, Tokens: -1, Err: &e.Error}, nil
	case values:
		if err := p.line.slow(line); err != nil {
			return Answer{}, err
		}
		return p.vector(), nil
	}
	return Answer{}, errors.New("not a vector, an error or a job record")
}

func (p *AnswerParser) vector() Answer {
	return Answer{Key: p.line.Key, Batch: p.line.Batch, Values: p.line.Values, Tokens: p.line.Tokens}
}

// ParseJob reads a line. One that is whole and has no member job gives nil.
func ParseJob(line []byte) (*Job, error) {
	is := false
	err := ndjson.Object(line, func(name, _ []byte) error {
		is = is || string(name) == "job"
		return nil
	})
	if err != nil || !is {
		return nil, err
	}
	j := new(Job)
	if err := ndjson.Unmarshal(line, j); err != nil {
		return nil, err
	}
	return j, nil
}
