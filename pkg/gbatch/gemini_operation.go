package gbatch

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"gbatch/pkg/model"
	"gbatch/pkg/record"
	"gbatch/pkg/wire"
)

// A maybe is a member of a reply. A member of another type than T counts as
// absent: no optional member may prevent a job from being collected.
type maybe[T any] struct{ v T }

func (m *maybe[T]) UnmarshalJSON(tok []byte) error {
	var v T
	if json.Unmarshal(tok, &v) == nil {
		m.v = v
	}
	return nil
}

// A number is a whole number, or -1. An int64 is a string in proto JSON, but
// other servers write a number.
type number int64

func (n *number) UnmarshalJSON(tok []byte) error {
	*n = -1
	f, err := strconv.ParseFloat(string(bytes.Trim(tok, `"`)), 64)
	if err == nil && f >= 0 && f < 1<<53 && f == math.Trunc(f) {
		*n = number(f)
	}
	return nil
}

type geminiOutput struct {
	ResponsesFile    maybe[string]
	InlinedResponses maybe[struct{ InlinedResponses []json.RawMessage }]
}

type geminiMetadata struct {
	DisplayName, Model, State, CreateTime, EndTime maybe[string]

	InputConfig maybe[struct {
		FileName  maybe[string]
		FileSnake maybe[string] `json:"file_name"`
	}]
	Output     maybe[geminiOutput]
	BatchStats maybe[struct{ RequestCount, SuccessfulRequestCount, FailedRequestCount *number }]
}

type geminiOperation struct {
	Name     maybe[string]
	Done     maybe[bool]
	Metadata maybe[*geminiMetadata]
	Response maybe[geminiOutput]
	Error    json.RawMessage
}

// decodeOperation reads a job as GET batches/… returns it. The state is
// metadata.state. The output is in metadata, in the response or in both. The
// SDK's own decoding drops the error, the counts, the input and the response.
func decodeOperation(body []byte, key string) (*operation, error) {
	var doc geminiOperation
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("the reply is not an operation: %w", err)
	}
	if doc.Metadata.v == nil && !doc.Done.v {
		return nil, fmt.Errorf("the reply is not an operation: %.200s", wire.Redact(wire.OneLine(string(body)), key))
	}
	op := doc.operation(key)
	if doc.Done.v && !(&record.Job{State: op.state}).Ended() {
		switch {
		case op.err != nil:
			op.state = record.Failed
		case op.output != "" || op.inlined != nil:
			op.state = record.Succeeded
		default:
			return nil, wire.Permanent(fmt.Errorf("google says that the job is done, with state %s, but gives neither results nor a reason", op.state))
		}
	}
	return op, nil
}

// decodeListed reads a job as the list returns it: without results, but with its
// name and its metadata, which holds the display name.
func decodeListed(item []byte, key string) (*operation, error) {
	var doc geminiOperation
	err := json.Unmarshal(item, &doc)
	m := doc.Metadata.v
	if err != nil || doc.Name.v == "" || m == nil || m.DisplayName.v+m.State.v+m.CreateTime.v == "" {
		return nil, wire.Permanent(fmt.Errorf("the list of jobs has an entry that is not a job: %.200s", wire.Redact(wire.OneLine(string(item)), key)))
	}
	op := doc.operation(key)
	if _, _, _, ours := parseLabel(op.display); ours && !geminiJobs.MatchString(op.name) {
		return nil, wire.Permanent(fmt.Errorf("the list of jobs has %q under the name %.100q", op.display, op.name))
	}
	op.inlined = nil
	return op, nil
}

func (doc *geminiOperation) operation(key string) *operation {
	m := doc.Metadata.v
	if m == nil {
		m = new(geminiMetadata)
	}
	out, input := &m.Output.v, &m.InputConfig.v
	op := &operation{
		name: doc.Name.v, display: m.DisplayName.v, model: model.Bare(m.Model.v),
		state: jobState(m.State.v), partial: strings.HasSuffix(m.State.v, "_PARTIALLY_SUCCEEDED"), created: m.CreateTime.v, ended: m.EndTime.v,
		input: cmp.Or(input.FileName.v, input.FileSnake.v), answers: -1, failed: -1, requests: -1,
		output:  cmp.Or(out.ResponsesFile.v, doc.Response.v.ResponsesFile.v),
		inlined: out.InlinedResponses.v.InlinedResponses,
	}
	if op.inlined == nil {
		op.inlined = doc.Response.v.InlinedResponses.v.InlinedResponses
	}
	s := &m.BatchStats.v
	if s.RequestCount != nil {
		op.requests = int64(*s.RequestCount)
	}
	if s.SuccessfulRequestCount != nil || s.FailedRequestCount != nil {
		// Google leaves out counts of zero.
		well, failed := cmp.Or(s.SuccessfulRequestCount, new(number)), cmp.Or(s.FailedRequestCount, new(number))
		if *well >= 0 && *failed >= 0 {
			op.answers, op.failed = int64(*well+*failed), int64(*failed)
		}
	}
	op.err = operationError(doc.Error, func(s string) string { return wire.Redact(s, key) })
	return op
}

// operationError decodes the error of a job, nil if it has none. hide removes the
// credential from texts.
func operationError(value json.RawMessage, hide func(string) string) *record.Status {
	if len(value) == 0 || string(value) == "null" {
		return nil
	}
	var e struct {
		Code            number
		Status, Message maybe[string]
	}
	if json.Unmarshal(value, &e) != nil {
		e.Message.v = string(value)
	}
	return canonical(record.Status{Code: int(e.Code), Status: hide(e.Status.v), Message: wire.OneLine(hide(e.Message.v))})
}

// jobState maps Google's names: JOB_STATE_X of the SDK and BATCH_STATE_X of the
// REST API are X. There are two exceptions: PENDING is QUEUED, and
// PARTIALLY_SUCCEEDED is SUCCEEDED, because such a job has results. An unknown
// state is not changed.
func jobState(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "JOB_STATE_"), "BATCH_STATE_")
	switch s {
	case "PENDING":
		return record.Queued
	case "PARTIALLY_SUCCEEDED":
		return record.Succeeded
	case "":
		return "UNSPECIFIED"
	}
	return s
}

// keyed turns inline answers into the lines of a result file. Their order is
// known to differ from that of the requests, so an answer without a key is
// useless.
func keyed(items []json.RawMessage) ([]byte, error) {
	var lines []byte
	for i, item := range items {
		var a struct {
			Key             string
			Metadata        struct{ Key string }
			Response, Error json.RawMessage
		}
		if err := json.Unmarshal(item, &a); err != nil {
			return nil, fmt.Errorf("inline answer %d: %w", i+1, err)
		}
		if a.Key == "" {
			a.Key = a.Metadata.Key
		}
		if a.Key == "" {
			return nil, fmt.Errorf("inline answer %d has no key, and answers are never matched by position: submit the requests as a file", i+1)
		}
		line, err := json.Marshal(struct { // one line, whatever layout Google uses
			Key      string          `json:"key"`
			Response json.RawMessage `json:"response,omitempty"`
			Error    json.RawMessage `json:"error,omitempty"`
		}{a.Key, a.Response, a.Error})
		if err != nil {
			return nil, fmt.Errorf("inline answer %d: %w", i+1, err)
		}
		lines = append(append(lines, line...), '\n')
	}
	return lines, nil
}
