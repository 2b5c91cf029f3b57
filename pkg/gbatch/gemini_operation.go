package gbatch

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"gbatch/pkg/model"
	"gbatch/pkg/record"
)

// An int64 is a string in proto JSON, and a number in what others write.
type number int64

func (n *number) UnmarshalJSON(tok []byte) error {
	tok = bytes.Trim(tok, `"`)
	if len(tok) == 0 || string(tok) == "null" {
		return nil
	}
	v, err := strconv.ParseInt(string(tok), 10, 64)
	*n = number(v)
	return err
}

type geminiOutput struct {
	ResponsesFile    string
	InlinedResponses struct{ InlinedResponses []json.RawMessage }
}

// decodeOperation reads a job as GET batches/… and the list show it. The state is
// metadata.state. The output stands in metadata, in the response or in both. The
// SDK's own decoding drops the error, the counts, the input and the response.
func decodeOperation(body []byte, key string) (*operation, error) {
	var doc struct {
		Name     string
		Done     bool
		Metadata struct {
			DisplayName, Model, State, CreateTime, EndTime string

			InputConfig struct {
				FileName  string
				FileSnake string `json:"file_name"`
			}
			Output     geminiOutput
			BatchStats struct{ SuccessfulRequestCount, FailedRequestCount *number }
		}
		Response geminiOutput
		Error    *struct {
			Code            int
			Status, Message string
		}
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("the reply is not an operation: %w", err)
	}
	m := &doc.Metadata
	op := &operation{
		name: doc.Name, display: m.DisplayName, model: model.Bare(m.Model),
		state: jobState(m.State), created: m.CreateTime, ended: m.EndTime,
		input: cmp.Or(m.InputConfig.FileName, m.InputConfig.FileSnake), answers: -1,
		output:  cmp.Or(m.Output.ResponsesFile, doc.Response.ResponsesFile),
		inlined: m.Output.InlinedResponses.InlinedResponses,
	}
	if op.inlined == nil {
		op.inlined = doc.Response.InlinedResponses.InlinedResponses
	}
	if s := m.BatchStats; s.SuccessfulRequestCount != nil || s.FailedRequestCount != nil { // counts of zero are left out
		op.answers = 0
		for _, n := range []*number{s.SuccessfulRequestCount, s.FailedRequestCount} {
			if n != nil {
				op.answers += int64(*n)
			}
		}
	}
	if e := doc.Error; e != nil {
		op.err = &record.Status{Code: e.Code, Status: redact(cmp.Or(e.Status, codeName(e.Code)), key), Message: oneLine(redact(e.Message, key))}
		if doc.Done && !(&record.Job{State: op.state}).Ended() {
			op.state = record.Failed
		}
	}
	return op, nil
}

// jobState maps Google's names: JOB_STATE_X of the SDK and BATCH_STATE_X of
// the wire are X, but PENDING is QUEUED. One that is not known stays as it is.
func jobState(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "JOB_STATE_"), "BATCH_STATE_")
	switch s {
	case "PENDING":
		return record.Queued
	case "":
		return "UNSPECIFIED"
	}
	return s
}

// keyed turns inline answers into the lines of a result file. Their order is
// known to differ from that of the requests, so one without a key is worth
// nothing.
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
			return nil, fmt.Errorf("inline answer %d has no key: answers are never matched by position, submit the requests as a file", i+1)
		}
		line, err := json.Marshal(struct { // on one line, whatever Google's layout
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
