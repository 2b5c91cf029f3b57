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

// Each job has a file <id>.paid with a line for each line of its input, "<hash>
// <kind> <key>\n": 32 hex digits of textHash, t or c for a canary, and the key
// as it was written, or "" in quotes. It is made with the job and never changed
// or removed. <id>.outcome, made with the results, has "<line, from 0>
// failed\n" for each line answered with an error and "<line> spoiled\n" for
// each whose vector a fault kept from its key.

// canaryPrefix begins the keys of lines that repeat a text on purpose.
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

// Books is what the server was asked for and what it would have cost.
//
// A line of a job is paid for as soon as the job is created, and no longer if
// the job ends FAILED, CANCELLED or EXPIRED or if the line is answered with an
// error. A line that a fault spoiled (missing, a vector of another length, …)
// was worked on and is counted apart, since the only way to its vector is to
// ask and pay again.
type Books struct {
	Creates         int            `json:"creates"`          // jobs ever created
	Jobs            map[string]int `json:"jobs"`             // by state; deleted ones too
	DeletedJobs     int            `json:"deleted_jobs"`     //
	RequestsCreated int            `json:"requests_created"` // lines of all jobs, without canaries
	RequestsPaid    int            `json:"requests_paid"`    // of these, those paid for and not spoiled
	RequestsFailed  int            `json:"requests_failed"`  // of these, those answered with an error
	RequestsSpoiled int            `json:"requests_spoiled"` // of these, those spoiled by a fault
	Canaries        int            `json:"canaries"`         // canary lines paid for
	Texts           int            `json:"texts"`            // different texts paid for: model, title, task type, dim and text
	MaxPaid         int            `json:"max_paid"`         // the most any one text was paid for
	PaidTwice       []PaidText     `json:"paid_twice"`       // the texts paid for more than once
	Uploaded        []BookFile     `json:"uploaded"`         // files that are there
	Generated       []BookFile     `json:"generated"`        //
	OpenUploads     int            `json:"open_uploads"`     // uploads begun and not finalized
	// Calls by operation and outcome: the HTTP code, or dropped.
	Operations map[string]map[string]int64 `json:"operations"`
}

// PaidText is a text that was paid for more than once.
type PaidText struct {
	Text  string   `json:"text"` // its hash
	Count int      `json:"count"`
	Keys  []string `json:"keys"`
	Jobs  []string `json:"jobs"` // of each key in turn
}

// BookFile is a file in the books.
type BookFile struct {
	Name        string `json:"name"`
	DisplayName string `json:"display_name"`
	SizeBytes   int64  `json:"size_bytes"`
}

// Books reads the books from disk, those of all projects together. They take
// memory for each text.
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

// eachPaid calls visit for each line of each job. The outcome is "" where the
// line is paid for, or failed, spoiled, or unpaid: the whole job was for
// nothing.
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
	if j.State == succeeded {
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
		if j.State == failed || j.State == cancelled || j.State == expired {
			outcome = "unpaid"
		}
		visit(j, line[:hashDigits], line[hashDigits+1], line[hashDigits+3:], outcome)
	}
	return scanner.Err()
}
