package gbatch

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"gbatch/pkg/record"
)

// All states that Google's SDK and REST reference name, and some unknown ones.
func TestStates(t *testing.T) {
	for _, c := range []struct {
		google, want string
		ended        bool
	}{
		{"BATCH_STATE_UNSPECIFIED", "UNSPECIFIED", false},
		{"BATCH_STATE_PENDING", record.Queued, false},
		{"BATCH_STATE_RUNNING", record.Running, false},
		{"BATCH_STATE_SUCCEEDED", record.Succeeded, true},
		{"BATCH_STATE_FAILED", record.Failed, true},
		{"BATCH_STATE_CANCELLED", record.Cancelled, true},
		{"BATCH_STATE_EXPIRED", record.Expired, true},
		{"JOB_STATE_UNSPECIFIED", "UNSPECIFIED", false},
		{"JOB_STATE_QUEUED", record.Queued, false},
		{"JOB_STATE_PENDING", record.Queued, false},
		{"JOB_STATE_RUNNING", record.Running, false},
		{"JOB_STATE_SUCCEEDED", record.Succeeded, true},
		{"JOB_STATE_FAILED", record.Failed, true},
		{"JOB_STATE_CANCELLING", "CANCELLING", false},
		{"JOB_STATE_CANCELLED", record.Cancelled, true},
		{"JOB_STATE_PAUSED", "PAUSED", false},
		{"JOB_STATE_EXPIRED", record.Expired, true},
		{"JOB_STATE_UPDATING", "UPDATING", false},
		{"JOB_STATE_PARTIALLY_SUCCEEDED", record.Succeeded, true},
		{"BATCH_STATE_PARTIALLY_SUCCEEDED", record.Succeeded, true},
		{"BATCH_STATE_LATER", "LATER", false},
		{"SUCCEEDED", record.Succeeded, true},
		{"", "UNSPECIFIED", false},
	} {
		got := jobState(c.google)
		if got != c.want || (&record.Job{State: got}).Ended() != c.ended || c.ended && lives(got) != (got == record.Succeeded) {
			t.Errorf("%q is %q, want %q, ended %v", c.google, got, c.want, c.ended)
		}
	}
}

var operations = []struct {
	name, body string
	want       string // state input responses answers error inlined
}{
	{"as published", `{"name":"batches/xyz","metadata":{"@type":"type.googleapis.com/google.ai.generativelanguage.v1main.EmbedContentBatch",
		"model":"models/gemini-embedding-001","displayName":"d","inputConfig":{"fileName":"files/abc"},"output":{"responsesFile":"files/batch-xyz"},
		"createTime":"2025-09-10T10:00:00.1Z","endTime":"2025-09-10T10:05:00Z","updateTime":"2025-09-10T10:05:00Z",
		"batchStats":{"requestCount":"3","successfulRequestCount":"3"},"state":"BATCH_STATE_SUCCEEDED","name":"batches/xyz"},
		"done":true,"response":{"@type":"x","responsesFile":"files/batch-xyz"}}`, "SUCCEEDED files/abc files/batch-xyz 3 <nil> 0"},
	{"the output in the response only", `{"metadata":{"state":"BATCH_STATE_SUCCEEDED"},"response":{"responsesFile":"files/r"}}`, "SUCCEEDED  files/r -1 <nil> 0"},
	{"snake case", `{"metadata":{"state":"BATCH_STATE_RUNNING","inputConfig":{"file_name":"files/abc"}}}`, "RUNNING files/abc  -1 <nil> 0"},
	{"numbers", `{"metadata":{"batchStats":{"successfulRequestCount":2,"failedRequestCount":"1","requestCount":null}}}`, "UNSPECIFIED   3 <nil> 0"},
	{"all failed", `{"metadata":{"batchStats":{"requestCount":"2","failedRequestCount":"2"}}}`, "UNSPECIFIED   2 <nil> 0"},
	{"failed", `{"metadata":{"state":"BATCH_STATE_FAILED"},"done":true,"error":{"code":3,"message":"no\nway"}}`, "FAILED   -1 {3 no; way} 0"},
	{"an error and done, but no state", `{"done":true,"error":{"code":13,"message":"m"}}`, "FAILED   -1 {13 m} 0"},
	{"an error and done, but running", `{"metadata":{"state":"BATCH_STATE_RUNNING"},"done":true,"error":{"code":13,"message":"m"}}`, "FAILED   -1 {13 m} 0"},
	{"an error, and not done", `{"metadata":{"state":"BATCH_STATE_RUNNING"},"error":{"code":13,"message":"m"}}`, "RUNNING   -1 {13 m} 0"},
	{"cancelled", `{"metadata":{"state":"BATCH_STATE_CANCELLED"},"done":true,"error":{"code":1}}`, "CANCELLED   -1 {1 } 0"},
	{"inline", `{"metadata":{"output":{"inlinedResponses":{"inlinedResponses":[{},{}]}}}}`, "UNSPECIFIED   -1 <nil> 2"},
	{"inline in the response", `{"metadata":{},"response":{"inlinedResponses":{"inlinedResponses":[{}]}}}`, "UNSPECIFIED   -1 <nil> 1"},
	{"nothing", `{}`, "error"},
	{"null", `null`, "error"},
	{"an error in its place", `{"error":{"code":503,"message":"m"}}`, "error"},
	{"not JSON", `<html>`, "error"},
	{"another type", `[]`, "error"},
	{"a count that is none", `{"metadata":{"batchStats":{"failedRequestCount":"x"}}}`, "UNSPECIFIED   -1 <nil> 0"},
	{"one count that is none", `{"metadata":{"batchStats":{"successfulRequestCount":"3","failedRequestCount":"x"}}}`, "UNSPECIFIED   -1 <nil> 0"},
	{"counts with a point", `{"metadata":{"batchStats":{"successfulRequestCount":3.0,"failedRequestCount":"1.0"}}}`, "UNSPECIFIED   4 <nil> 0"},
	{"huge counts", `{"metadata":{"batchStats":{"successfulRequestCount":"9223372036854775807","failedRequestCount":"9223372036854775807"}}}`, "UNSPECIFIED   -1 <nil> 0"},
	{"odd optional members", `{"name":7,"metadata":{"state":"BATCH_STATE_SUCCEEDED","createTime":1764000000,"displayName":[],"model":{},"inputConfig":"x","output":"x","batchStats":[]},"response":{"responsesFile":"files/r"}}`, "SUCCEEDED  files/r -1 <nil> 0"},
	{"odd metadata", `{"metadata":"x","done":true,"response":{"responsesFile":"files/r"}}`, "SUCCEEDED  files/r -1 <nil> 0"},
	{"a code as a string", `{"metadata":{"state":"BATCH_STATE_FAILED"},"error":{"code":"13","message":"boom"}}`, "FAILED   -1 {13 boom} 0"},
	{"HTTP's code", `{"metadata":{"state":"BATCH_STATE_FAILED"},"error":{"code":503,"message":"boom"}}`, "FAILED   -1 {14 boom} 0"},
	{"another code than the status", `{"metadata":{"state":"BATCH_STATE_FAILED"},"error":{"code":400,"status":"RESOURCE_EXHAUSTED"}}`, "FAILED   -1 {8 } 0"},
	{"an error that is a string", `{"metadata":{"state":"BATCH_STATE_FAILED"},"error":"boom"}`, "FAILED   -1 {2 \"boom\"} 0"},
	{"partially succeeded", `{"metadata":{"state":"BATCH_STATE_PARTIALLY_SUCCEEDED","output":{"responsesFile":"files/r"}},"done":true}`, "SUCCEEDED  files/r -1 <nil> 0"},
	{"done in a state that nobody knows", `{"metadata":{"state":"BATCH_STATE_NEW","output":{"responsesFile":"files/r"}},"done":true}`, "SUCCEEDED  files/r -1 <nil> 0"},
	{"done without a state", `{"metadata":{"output":{"responsesFile":"files/r"}},"done":true}`, "SUCCEEDED  files/r -1 <nil> 0"},
	{"done and nothing else", `{"done":true}`, "error"},
	{"done, running and nothing else", `{"metadata":{"state":"BATCH_STATE_RUNNING"},"done":true}`, "error"},
}

func TestOperations(t *testing.T) {
	for _, c := range operations {
		op, err := decodeOperation([]byte(c.body), "")
		got := "error"
		if err == nil {
			status := "<nil>"
			if op.err != nil {
				status = fmt.Sprintf("{%d %s}", op.err.Code, op.err.Message)
			}
			got = fmt.Sprint(op.state, " ", op.input, " ", op.output, " ", op.answers, " ", status, " ", len(op.inlined))
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q (%v)", c.name, got, c.want, err)
		}
	}
}

// A job that ended without results has a reason: Google's own, if Google gives
// one.
func TestReasons(t *testing.T) {
	for _, state := range []string{record.Failed, record.Cancelled, record.Expired} {
		var job record.Job
		(&operation{state: state}).update(&job)
		if job.Error == nil || job.Error.Code == 0 || job.Error.Message == "" {
			t.Errorf("%s: %+v", state, job.Error)
		}
		own := &record.Status{Code: 9, Message: "own"}
		(&operation{state: state, err: own}).update(&job)
		if job.Error != own {
			t.Errorf("%s: %+v", state, job.Error)
		}
	}
	job := record.Job{Input: "files/mine", Error: &record.Status{}}
	(&operation{state: record.Succeeded, input: "files/theirs", created: "c", ended: "e"}).update(&job)
	if want := (record.Job{State: record.Succeeded, Input: "files/mine", CreatedAt: "c", EndedAt: "e"}); job != want {
		t.Errorf("%+v, want %+v", job, want)
	}
}

func FuzzOperation(f *testing.F) {
	for _, c := range operations {
		f.Add([]byte(c.body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		op, err := decodeOperation(body, "SECRETKEY")
		if err != nil {
			return
		}
		var job record.Job
		op.update(&job)
		if op.state == "" || op.err != nil && strings.ContainsAny(op.err.Message, "\n") {
			t.Errorf("%+v", op)
		}
		if _, err := json.Marshal(job); err != nil {
			t.Error(err)
		}
		keyed(op.inlined)
	})
}
