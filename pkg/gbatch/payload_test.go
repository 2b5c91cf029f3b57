package gbatch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/record"
)

func content(t *testing.T, p *payload) string {
	t.Helper()
	data, err := io.ReadAll(p.reader())
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCut(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	a, b, c := requestLine("a", "text a", 4), requestLine("b", "text b", 4), requestLine("c", "text c", 4)
	header := func(name string, n int) string {
		return fmt.Sprintf(`{"batch":%q,"count":%d,"model":"models/gemini-embedding-001","dim":4,"task_type":"X","later":1}`+"\n", name, n)
	}
	of := func(line string) string { return strings.Replace(line, `,"request":`, `,"claimed":true,"request":`, 1) }
	summed := func(name string, keys ...string) string {
		var sum record.KeySum
		for _, k := range keys {
			sum.Add(k)
		}
		return fmt.Sprintf(`{"batch":%q,"count":%d,"dim":4,"keys":%q}`+"\n", name, len(keys), sum)
	}
	for _, test := range []struct {
		name string
		in   string
		want []string // "batch count dim: lines"
		code int
		said string
	}{
		{"nothing", "", nil, 0, ""},
		{"blank lines, a BOM and CRLF", "\xef\xbb\xbf\n" + strings.ReplaceAll(header("b1", 1)+"\n"+a, "\n", "\r\n"), []string{"b1 1 4: " + a}, 0, ""},
		{"two batches", header("b1", 2) + a + b + header("b2", 1) + c, []string{"b1 2 4: " + a + b, "b2 1 4: " + c}, 0, ""},
		{"an empty batch", header("b1", 0) + header("b2", 1) + c, []string{"b2 1 4: " + c}, 0, ""},
		{"no header", a + b + c, []string{" 2 4: " + a + b, " 1 4: " + c}, 0, ""},
		{"no header, by bytes", a + requestLine("big", strings.Repeat("x", 900), 4) + c, []string{" 1 4: " + a, " 1 4: " + requestLine("big", strings.Repeat("x", 900), 4), " 1 4: " + c}, 0, ""},
		{"requests behind a batch", header("b1", 1) + a + b, []string{"b1 1 4: " + a, " 1 4: " + b}, 0, ""},
		{"a batch behind requests", a + header("b1", 1) + b, []string{" 1 4: " + a, "b1 1 4: " + b}, 0, ""},
		{"no line end", header("b1", 1) + strings.TrimSuffix(a, "\n"), []string{"b1 1 4: " + a}, 0, ""},
		{"dim in a config", `{"key":"k","request":{"embed_content_config":{"output_dimensionality":8}}}`, []string{` 1 8: {"key":"k","request":{"embed_content_config":{"output_dimensionality":8}}}` + "\n"}, 0, ""},
		{"no dim", `{"key":"k","request":{}}`, []string{" 1 0: {\"key\":\"k\",\"request\":{}}\n"}, 0, ""},

		{"claimed requests", header("b1", 2) + of(a) + of(b), []string{"b1 2 4: " + a + b}, 0, ""},
		{"some claimed requests", header("b1", 2) + a + of(b), []string{"b1 2 4: " + a + b}, 0, ""},
		{"claimed at the end, and spaces", header("b1", 1) + `{ "request" : {"outputDimensionality":4} , "key":"\u0061", "claimed" : true }`, []string{`b1 1 4: {"key":"\u0061","request":{"outputDimensionality":4}}` + "\n"}, 0, ""},
		{"claimed: null", a + strings.Replace(b, `,"request"`, `,"claimed":null,"request"`, 1), []string{" 2 4: " + a + strings.Replace(b, `,"request"`, `,"claimed":null,"request"`, 1)}, 0, ""},
		{"header lost", of(a) + of(b), nil, 7, `line 1: key "a" is a request of a claimed batch, without its header: nothing of the batch is sent; run the whole pipe again`},
		{"header lost in the middle", a + of(b), nil, 7, `line 2: key "b" is a request of a claimed batch, without its header`},
		{"header behind", of(a) + header("b1", 1), nil, 7, "line 1: key \"a\" is a request of a claimed batch, without its header"},
		{"more lines than the header says", header("b1", 1) + of(a) + of(b), []string{"b1 1 4: " + a}, 7, "line 3: key \"b\" is a request of a claimed batch, without its header"},
		{"claimed is a string", header("b1", 1) + strings.Replace(a, `,"request"`, `,"claimed":"b1","request"`, 1), nil, 7, `line 2: key "a": claimed is "b1"; it must be true`},

		{"keys", summed("b1", "a", "b") + of(a) + of(b) + summed("b2", "c") + of(c), []string{"b1 2 4: " + a + b, "b2 1 4: " + c}, 0, ""},
		{"keys in another order", summed("b1", "b", "a") + of(a) + of(b), []string{"b1 2 4: " + a + b}, 0, ""},
		{"keys that are escaped", summed("b1", "a") + `{"key":"\u0061","claimed":true,"request":{}}`, []string{`b1 1 4: {"key":"\u0061","request":{}}` + "\n"}, 0, ""},
		{"another batch's requests", summed("b1", "a") + of(b), nil, 7, "line 2: batch b1 has other keys than its header announces: lines are missing, or belong to another batch; nothing of the batch is sent; run the whole pipe again, chunks-pending prints the batch again"},
		{"batches mixed", summed("b1", "a", "c") + of(a) + of(b) + summed("b2", "b") + of(c), nil, 7, "line 3: batch b1 has other keys"},
		{"keys are no text", `{"batch":"b","count":1,"keys":1}`, nil, 7, "keys is 1; it must be a string"},

		{"cut short", header("b1", 1) + a + header("b2", 3) + b + c, []string{"b1 1 4: " + a}, 7, "batch b2 has 2 requests where its header says 3"},
		{"cut short by a header", header("b1", 2) + a + header("b2", 1) + b, nil, 7, "line 3: batch b1 has 1 requests"},
		{"header only", header("b1", 2), nil, 7, "batch b1 has 0"},
		{"not JSON", "{", nil, 7, "line 1"},
		{"not an object", header("b1", 1) + "[]", nil, 7, "line 2"},
		{"no request", header("b1", 1) + `{"id":"x","text":"a chunk"}`, nil, 7, "line 2: neither a batch header nor a request"},
		{"request is text", `{"key":"x","request":"a"}`, nil, 7, "line 1"},
		{"no key", `{"request":{}}`, nil, 7, "without a key"},
		{"empty key", `{"key":"","request":{}}`, nil, 7, "without a key"},
		{"key is a number", `{"key":5,"request":{}}`, nil, 7, "without a key"},
		{"key twice", header("b1", 2) + a + a, nil, 7, `line 3: key "a" occurs twice in batch b1`},
		{"key twice, escaped", a + `{"key":"\u0061","request":{"outputDimensionality":4}}`, nil, 7, `key "a" occurs twice`},
		{"key in two batches", header("b1", 1) + a + header("b2", 1) + a, []string{"b1 1 4: " + a, "b2 1 4: " + a}, 0, ""},
		{"reserved key", `{"key":"gbatch-canary:0:x","request":{}}`, nil, 7, "reserved"},
		{"two dims", a + requestLine("x", "text", 8), nil, 7, `key "x" asks for dim 8, but its batch has dim 4`},
		{"dim is text", `{"key":"k","request":{"outputDimensionality":"8"}}`, nil, 7, "not a number"},
		{"batch without a name", `{"batch":"","count":1}`, nil, 7, "line 1: a header without the name of its batch"},
		{"batch with a path", `{"batch":"../../x","count":1}`, nil, 7, "../../x"},
		{"model with a query", `{"batch":"b","count":1,"model":"m?x=:y"}`, nil, 7, "is not the name of a model"},
		{"count below zero", `{"batch":"b","count":-1}`, nil, 7, "not a number of lines"},
		{"a number too large", `{"batch":"b","count":1e99}`, nil, 7, "line 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSubmit()
			s.MaxRequests, s.MaxBytes = 2, 1000
			payloads, err := cutInput(s, test.in)
			var got []string
			for _, p := range payloads {
				text := content(t, p)
				got = append(got, fmt.Sprintf("%s %d %d: %s", p.Batch, p.Count, p.Dim, text))
				sum := sha256.Sum256([]byte(text))
				if p.hash != hex.EncodeToString(sum[:8]) || p.size != int64(len(text)) || p.Model != "gemini-embedding-001" {
					t.Errorf("hash %s, size %d, model %s of %q", p.hash, p.size, p.Model, text)
				}
				p.close()
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", test.want) {
				t.Errorf("cut into\n%q\nwant\n%q", got, test.want)
			}
			if exit.Code(err) != test.code || err != nil && !strings.Contains(err.Error(), test.said) {
				t.Errorf("exit %d: %v; want %d and %q", exit.Code(err), err, test.code, test.said)
			}
		})
	}
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}

// A batch that was read completely is submitted, whatever follows it. Of an
// incomplete batch nothing is submitted.
func TestCutShortInput(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	whole, half := batch("b1", 2, 4), batch("b2", 3, 4)
	half = half[:strings.LastIndex(half[:len(half)-1], "\n")+1]
	out := g.fails(newSubmit(), whole+half, exit.Malformed, "batch b2 has 2 requests")
	if job := oneJob(t, out); job.Batch != "b1" {
		t.Errorf("printed %s", out)
	}
	g.jobs(1)
	g.files(1)

	submit := newSubmit()
	submit.AllowPartial = true
	jobs := jobsOf(t, g.ok(submit, whole+half))
	if len(jobs) != 2 || jobs[1].Requests != 2 {
		t.Errorf("%+v", jobs)
	}
	// The other requests of the batch would be paid for twice.
	g.fails(newSubmit(), batch("b2", 3, 4), exit.Failed, "another payload")
	g.jobs(2)
}

// A read error is not the end of the input.
func TestInputBreaks(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	broken := errors.New("broken")
	var out strings.Builder
	err := newSubmit().Run(t.Context(), io.MultiReader(strings.NewReader(requestLine("a", "text", 4)), failing{broken}), &out)
	if !errors.Is(err, broken) || out.String() != "" {
		t.Errorf("%v, printed %q", err, out.String())
	}
	g.jobs(0)
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

func TestPayloadTooLarge(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	c := newCutter(newSubmit(), strings.NewReader(batch("b1", 2, 4)))
	if err := c.scan(false); err != nil {
		t.Fatal(err)
	}
	p := &payload{Header: *c.pending}
	w, err := newSpool()
	if err != nil {
		t.Fatal(err)
	}
	defer w.file.Close()
	c.pending, w.size = nil, maxPayload-100
	if err := c.fill(p, w); exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), "2 GB") {
		t.Errorf("exit %d: %v", exit.Code(err), err)
	}
}

func TestLabels(t *testing.T) {
	const hash = "0123456789abcdef"
	for label, want := range map[string]string{
		"gbatch-" + hash:                               " " + hash + " 0 true",
		"gbatch-" + hash + "-c3":                       " " + hash + " 3 true",
		"gbatch-b1-" + hash:                            "b1 " + hash + " 0 true",
		"gbatch-b1-x-" + hash + "-c12":                 "b1-x " + hash + " 12 true",
		"gbatch-" + hash + "-" + hash:                  hash + " " + hash + " 0 true",
		"gbatch-" + hash + "-c3-" + hash:               hash + "-c3 " + hash + " 0 true",
		"gbatch-" + hash + "-c012345678901234":         hash + " c012345678901234 0 true",
		"gbatch-b1":                                    "  0 false",
		"gbatch-b1-" + hash + "0":                      "  0 false",
		"gbatch-b1-" + strings.ToUpper(hash):           "  0 false",
		"other-b1-" + hash:                             "  0 false",
		"gbatch-b1-" + hash + "-c99999999999999999999": "  0 false",
	} {
		batch, hash, canary, ok := parseLabel(label)
		if got := fmt.Sprint(batch, " ", hash, " ", canary, " ", ok); got != want {
			t.Errorf("%s: %q, want %q", label, got, want)
		}
	}
}

func TestCanaries(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, c := range []struct{ requests, canaries, want int }{
		{10, 0, 0}, {10, 1, 1}, {10, 3, 3}, {10, 10, 10}, {3, 10, 3}, {1, 1, 1}, {1000, 7, 7},
	} {
		in := batch("b1", c.requests, 4)
		s := newSubmit()
		plain := cutAll(t, s, in)[0]
		s.Canary = c.canaries
		p := cutAll(t, s, in)[0]
		if p.name() != plain.name() || p.canary != c.want || p.Count != c.requests {
			t.Errorf("%+v: name %s, plain %s, %d canaries, %d requests", c, p.name(), plain.name(), p.canary, p.Count)
		}
		text := content(t, p)
		if int64(len(text)) != p.size {
			t.Errorf("%+v: size %d of %d", c, p.size, len(text))
		}
		var own strings.Builder
		found := 0
		for line := range strings.Lines(text) {
			if !strings.Contains(line, record.CanaryPrefix) {
				own.WriteString(line)
				continue
			}
			n := strings.Count(own.String(), "\n") // the lines before it
			var i, of int
			if _, err := fmt.Sscanf(line, `{"key":"gbatch-canary:%d:b1/%d"`, &i, &of); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			found++
			if want := requestLine(fmt.Sprintf("%s%d:b1/%d", record.CanaryPrefix, i, of), fmt.Sprintf("text %d of b1", of), 4); line != want {
				t.Errorf("%+v: canary %s, want %s", c, line, want)
			}
			if i*c.requests/c.want != of {
				t.Errorf("%+v: canary %d repeats request %d", c, i, of)
			}
			if c.requests >= 4 && (n == of+1 || n == of) {
				t.Errorf("%+v: canary %d is beside its request", c, i)
			}
		}
		if found != c.want || own.String() != payloadOf(in) {
			t.Errorf("%+v: %d canaries; own lines are the same: %v", c, found, own.String() == payloadOf(in))
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add(batch("b1", 2, 4) + requestLine("k", "t", 4))
	f.Add(`{"batch":"b","count":2,"model":"m","dim":4}` + "\n" + `{"key":"k","request":{"embedContentConfig":{"outputDimensionality":3}}}`)
	f.Add("\xef\xbb\xbf{\"key\":\"\\u0061\",\"request\":{}}\r\n\n{")
	f.Add(`{"batch":"b","count":0}`)
	f.Fuzz(func(t *testing.T, in string) {
		s := newSubmit()
		s.MaxRequests, s.MaxBytes, s.Canary = 3, 1000, 1
		payloads, err := cutInput(s, in)
		for _, p := range payloads {
			text := content(t, p)
			if p.Count < 1 || strings.Count(text, "\n") != p.Count+p.canary || p.size != int64(len(text)) || !labels.MatchString(p.label()) {
				t.Errorf("payload %+v of %q", p, text)
			}
			p.close()
		}
		if err != nil && exit.Code(err) != exit.Malformed {
			t.Errorf("exit %d: %v", exit.Code(err), err)
		}
	})
}

// A job of Vertex AI has at most a million requests and a billion bytes, its canaries
// included.
func TestVertexLimits(t *testing.T) {
	s := newSubmit()
	s.Backend = model.Vertex
	c := newCutter(s, strings.NewReader(""))
	for _, l := range []struct {
		canary, lines int
		size          int64
		want          string
	}{
		{0, 1_000_000, 1e9, ""},
		{0, 1_000_001, 5, "has more than 1,000,000 requests, google's limit for a job"},
		{2, 1_000_001, 5, "has more than 1,000,000 requests with its 2 canaries, google's limit for a job"},
		{0, 1, 1e9 + 1, "is larger than 1 GB, google's limit"},
		{1, 1, 1e9 + 1, "is larger than 1 GB with its 1 canaries, google's limit"},
	} {
		err := c.checkSize(&payload{canary: l.canary}, l.lines, l.size)
		if l.want == "" && err != nil || l.want != "" && (exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), l.want)) {
			t.Errorf("%d lines, %d bytes, %d canaries: %v", l.lines, l.size, l.canary, err)
		}
	}
	if testing.Short() {
		return
	}
	var in strings.Builder
	fmt.Fprintln(&in, `{"batch":"b","count":1000000,"model":"m","dim":4}`)
	for i := range 1_000_000 {
		in.WriteString(`{"key":"` + strconv.Itoa(i) + `","request":{}}` + "\n")
	}
	s.Canary = 1
	if payloads, err := cutInput(s, in.String()); exit.Code(err) != exit.Refused {
		t.Errorf("a batch with a canary too many: %d batches, %v", len(payloads), err)
	}
}
