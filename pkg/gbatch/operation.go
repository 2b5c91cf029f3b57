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

// An operation is what Google knows of a job. The SDK's own decoding drops the
// error, the statistics, the input and the inner response.
type operation struct {
	name, display, model string // model without "models/"
	state                string // as in [record.Job]
	created, ended       string // RFC 3339
	input, responses     string // files/…
	inlined              []json.RawMessage
	err                  *record.Status
	answers              int64 // successful and failed requests together; -1: not told
}

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

type output struct {
	ResponsesFile    string
	InlinedResponses struct{ InlinedResponses []json.RawMessage }
}

// decodeOperation reads the reply to GET batches/…: metadata.state is the
// truth about the state, and the output may stand in metadata, in the response
// or in both.
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
			Output     output
			BatchStats struct{ SuccessfulRequestCount, FailedRequestCount *number }
		}
		Response output
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
		responses: cmp.Or(m.Output.ResponsesFile, doc.Response.ResponsesFile),
		inlined:   m.Output.InlinedResponses.InlinedResponses,
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

var codeNames = strings.Fields(`OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS
	PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE
	DATA_LOSS UNAUTHENTICATED`)

// codeName is the name of a code of google.rpc.Code, or "".
func codeName(code int) string {
	if code < 0 || code >= len(codeNames) {
		return ""
	}
	return codeNames[code]
}

// update brings the record of a job to what Google says of it.
func (op *operation) update(job *record.Job) {
	job.State, job.Error = op.state, op.err
	if job.Input == "" {
		job.Input = op.input
	}
	job.CreatedAt, job.EndedAt = op.created, op.ended
	if job.Error != nil {
		return
	}
	switch op.state { // not every job that ended without results says why
	case record.Failed:
		job.Error = &record.Status{Code: 2, Status: codeName(2), Message: "the job failed, google does not say why"}
	case record.Cancelled:
		job.Error = &record.Status{Code: 1, Status: codeName(1), Message: "the job was cancelled"}
	case record.Expired:
		job.Error = &record.Status{Code: 4, Status: codeName(4), Message: "the job expired before it was done"}
	}
}
