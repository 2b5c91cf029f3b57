package emulator

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// This file reads the filter of a list of Vertex AI jobs (google.aip.dev/160):
//
//	labels.gbatch="a" AND (state=JOB_STATE_RUNNING OR NOT create_time<"2026-01-01T00:00:00Z")

// parseFilter returns a function that tells which jobs a filter selects.
func parseFilter(text string) (func(*job) bool, error) {
	if strings.TrimSpace(text) == "" {
		return func(*job) bool { return true }, nil
	}
	p := filterParser{words: filterWord.FindAllString(text, -1)}
	match, err := p.and()
	if err == nil && len(p.words) > 0 {
		err = fmt.Errorf("unexpected %q", p.words[0])
	}
	if err != nil {
		return nil, errorf(http.StatusBadRequest, "Invalid filter %q: %v", text, err)
	}
	return match, nil
}

var filterWord = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|!=|<=|>=|[=<>:()]|[^\s=<>:()!"]+|\S`)

type filterParser struct{ words []string }

func (p *filterParser) next(word string) bool {
	if len(p.words) == 0 || p.words[0] != word {
		return false
	}
	p.words = p.words[1:]
	return true
}

// and reads terms that are joined by AND. OR binds more tightly.
func (p *filterParser) and() (func(*job) bool, error) {
	match, err := p.or()
	for err == nil && p.next("AND") {
		a, b := match, (func(*job) bool)(nil)
		if b, err = p.or(); err == nil {
			match = func(j *job) bool { return a(j) && b(j) }
		}
	}
	return match, err
}

func (p *filterParser) or() (func(*job) bool, error) {
	match, err := p.term()
	for err == nil && p.next("OR") {
		a, b := match, (func(*job) bool)(nil)
		if b, err = p.term(); err == nil {
			match = func(j *job) bool { return a(j) || b(j) }
		}
	}
	return match, err
}

func (p *filterParser) term() (func(*job) bool, error) {
	if p.next("NOT") {
		match, err := p.term()
		return func(j *job) bool { return !match(j) }, err
	}
	if p.next("(") {
		match, err := p.and()
		if err == nil && !p.next(")") {
			err = errors.New("a parenthesis is not closed")
		}
		return match, err
	}
	if len(p.words) < 3 {
		return nil, errors.New("a comparison is not complete")
	}
	field, op, value := p.words[0], p.words[1], p.words[2]
	p.words = p.words[3:]
	value = strings.ReplaceAll(strings.Trim(value, `"`), `\"`, `"`)
	key, isLabel := strings.CutPrefix(field, "labels.")
	switch {
	case isLabel && op == ":" && value == "*":
		return func(j *job) bool { _, ok := j.Vertex.Labels[key]; return ok }, nil
	case isLabel && op == "=":
		return func(j *job) bool { v, ok := j.Vertex.Labels[key]; return ok && v == value }, nil
	case field == "state" && (op == "=" || op == "!="):
		return func(j *job) bool { return (j.vertexState() == value) == (op == "=") }, nil
	case field == "display_name" && (op == "=" || op == "!="):
		return func(j *job) bool { return (j.DisplayName == value) == (op == "=") }, nil
	case field == "display_name" && op == ":":
		like := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(value), `\*`, ".*") + "$")
		return func(j *job) bool { return like.MatchString(j.DisplayName) }, nil
	case field == "create_time":
		at, err := time.Parse(time.RFC3339, value)
		wanted := map[string][]int{"=": {0}, "!=": {-1, 1}, "<": {-1}, "<=": {-1, 0}, ">": {1}, ">=": {1, 0}}[op]
		if err != nil || wanted == nil {
			return nil, fmt.Errorf("a comparison of create_time: %s %s", op, value)
		}
		return func(j *job) bool {
			c := j.Created.Compare(at)
			return c == wanted[0] || c == wanted[len(wanted)-1]
		}, nil
	}
	return nil, fmt.Errorf("unsupported comparison: %s %s %s", field, op, value)
}
