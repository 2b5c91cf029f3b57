package emulator

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Each job has a file <id>.paid. For each line of its input the file has a line
// "<hash> <kind> <key>\n": the 32 hex digits of textHash, then t or, for a
// canary, c, then the key as it was written, or "" in quotes. The file is made
// with the job, and is never changed or removed. <id>.outcome is made with the
// results. It has "<line, from 0> failed\n" for each line that got an error, and
// "<line> spoiled\n" for each line whose vector did not reach its key because of
// a fault.

// canaryPrefix is the beginning of the keys of lines that repeat a text on
// purpose.
const canaryPrefix = "gbatch-canary:"

const hashDigits = 32

func appendPaid(dst []byte, hash [16]byte, it *item) []byte {
	kind := byte('t')
	if bytes.HasPrefix(it.key, []byte(canaryPrefix)) {
		kind = 'c'
	}
	dst = hex.AppendEncode(dst, hash[:])
	dst = append(dst, ' ', kind, ' ')
	if it.rawKey == nil {
		dst = append(dst, `""`...)
	} else {
		dst = append(dst, it.rawKey...)
	}
	return append(dst, '\n')
}

// appendJSON appends s as a JSON string.
func appendJSON(dst []byte, s string) []byte {
	b, _ := json.Marshal(s)
	return append(dst, b...)
}

// Books is what was requested from the server, and what that would have cost.
//
// A line of a job is paid for as soon as the job exists. It is not paid for if
// the job ends FAILED, CANCELLED or EXPIRED, or if the line gets an error. A
// line is spoiled if a fault removed its answer or changed its vector. Spoiled
// lines are counted separately: their vectors were made, but a client can get
// them only by paying again.
type Books struct {
	Creates         int            `json:"creates"`          // jobs that were created, including deleted ones
	Jobs            map[string]int `json:"jobs"`             // by state, including deleted ones
	DeletedJobs     int            `json:"deleted_jobs"`     //
	RequestsCreated int            `json:"requests_created"` // lines of all jobs, without canaries
	RequestsPaid    int            `json:"requests_paid"`    // of requests_created, those paid for and not spoiled
	RequestsFailed  int            `json:"requests_failed"`  // of requests_created, those that got an error
	RequestsSpoiled int            `json:"requests_spoiled"` // of requests_created, those that a fault spoiled
	Canaries        int            `json:"canaries"`         // canary lines paid for
	Tokens          int64          `json:"tokens"`           // of all lines of the jobs that are paid for
	OnlineTokens    int64          `json:"online_tokens"`    // of the online calls, also if the reply was lost
	Texts           int            `json:"texts"`            // different texts paid for: model, title, task type, dim and text
	MaxPaid         int            `json:"max_paid"`         // the largest number of times that one text was paid for
	PaidTwice       []PaidText     `json:"paid_twice"`       // the texts paid for more than once
	Uploaded        []BookFile     `json:"uploaded"`         // files that exist
	Generated       []BookFile     `json:"generated"`        //
	OpenUploads     int            `json:"open_uploads"`     // uploads that are not finalized
	// Calls by operation and outcome: the HTTP code, or dropped.
	Operations map[string]map[string]int64 `json:"operations"`
}

// PaidText is a text that was paid for more than once.
type PaidText struct {
	Text  string   `json:"text"` // its hash
	Count int      `json:"count"`
	Keys  []string `json:"keys"`
	Jobs  []string `json:"jobs"` // the job of each key
}

// BookFile is a file in the books.
type BookFile struct {
	Name        string `json:"name"`
	DisplayName string `json:"display_name"`
	SizeBytes   int64  `json:"size_bytes"`
}

// Books reads the books of all projects from disk. It needs memory for each
// text.
func (s *Server) Books() (*Books, error) {
	b := &Books{
		Jobs: map[string]int{}, PaidTwice: []PaidText{}, Uploaded: []BookFile{}, Generated: []BookFile{},
		Operations: map[string]map[string]int64{},
	}
	s.mu.Lock()
	var jobs []job
	for _, j := range s.jobs {
		jobs = append(jobs, *j)
	}
	var files []*file
	for _, f := range s.files {
		files = append(files, f)
	}
	for _, u := range s.uploads {
		if u.file == nil {
			b.OpenUploads++
		}
	}
	b.OnlineTokens = s.online
	for op, outcomes := range s.ops {
		b.Operations[op] = map[string]int64{}
		for o, n := range outcomes {
			b.Operations[op][o] = n
		}
	}
	s.mu.Unlock()

	slices.SortFunc(files, func(x, y *file) int { return int(x.Seq - y.Seq) })
	for _, f := range files {
		list := &b.Uploaded
		if f.Source == generated {
			list = &b.Generated
		}
		*list = append(*list, BookFile{"files/" + f.ID, f.DisplayName, f.Size})
	}

	slices.SortFunc(jobs, func(x, y job) int { return int(x.Seq - y.Seq) })
	counts := map[string]int{}
	err := s.eachPaid(jobs, func(j *job, hash []byte, kind byte, _ []byte, outcome string) {
		if kind == 'c' {
			if outcome == "" {
				b.Canaries++
			}
			return
		}
		b.RequestsCreated++
		switch outcome {
		case "failed":
			b.RequestsFailed++
		case "spoiled":
			b.RequestsSpoiled++
		case "":
			b.RequestsPaid++
			counts[string(hash)]++
		}
	})
	if err != nil {
		return nil, err
	}
	for i := range jobs {
		b.Creates++
		b.Jobs[jobs[i].State]++
		if s := jobs[i].State; jobs[i].Vertex != nil && ended(s) {
			b.Tokens += jobs[i].Vertex.Tokens
		} else if !ended(s) || hasResults(s) {
			b.Tokens += jobs[i].Tokens
		}
		if jobs[i].Deleted {
			b.DeletedJobs++
		}
	}
	b.Texts = len(counts)
	twice := map[string]*PaidText{}
	for hash, n := range counts {
		b.MaxPaid = max(b.MaxPaid, n)
		if n > 1 {
			twice[hash] = &PaidText{Text: hash, Count: n}
		}
	}
	if len(twice) == 0 {
		return b, nil
	}
	err = s.eachPaid(jobs, func(j *job, hash []byte, kind byte, rawKey []byte, outcome string) {
		if t := twice[string(hash)]; t != nil && kind == 't' && outcome == "" {
			var key string
			json.Unmarshal(rawKey, &key)
			t.Keys = append(t.Keys, key)
			t.Jobs = append(t.Jobs, "batches/"+j.ID)
		}
	})
	for _, t := range twice {
		b.PaidTwice = append(b.PaidTwice, *t)
	}
	slices.SortFunc(b.PaidTwice, func(x, y PaidText) int { return strings.Compare(x.Text, y.Text) })
	return b, err
}

// eachPaid calls visit for each line of each job. The outcome is "" if the line is
// paid for, or else failed, spoiled, or unpaid (the job ended without results).
func (s *Server) eachPaid(jobs []job, visit func(j *job, hash []byte, kind byte, rawKey []byte, outcome string)) error {
	for i := range jobs {
		if err := s.jobPaid(&jobs[i], visit); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) jobPaid(j *job, visit func(j *job, hash []byte, kind byte, rawKey []byte, outcome string)) error {
	outcomes := map[int]string{}
	worked := hasResults(j.State) || j.Vertex != nil && j.Vertex.Directory != ""
	if worked {
		data, err := os.ReadFile(s.jobPath(j.ID, ".outcome"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for line := range strings.Lines(string(data)) {
			n, outcome, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			i, err := strconv.Atoi(n)
			if err != nil {
				return err
			}
			outcomes[i] = outcome
		}
	}
	f, err := os.Open(s.jobPath(j.ID, ".paid"))
	if err != nil {
		return err
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, maxLine)
	for i := 0; scanner.Scan(); i++ {
		line := scanner.Bytes()
		if len(line) < hashDigits+5 {
			return errors.New("a damaged line in the books of " + j.ID)
		}
		outcome := outcomes[i]
		if ended(j.State) && !worked {
			outcome = "unpaid"
		}
		visit(j, line[:hashDigits], line[hashDigits+1], line[hashDigits+3:], outcome)
	}
	return scanner.Err()
}
