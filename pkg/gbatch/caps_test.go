package gbatch

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/model"
)

// priced is batch with the members tokens and tokens_max in its header.
func priced(name string, n int, tokens, most int64) string {
	return strings.Replace(batch(name, n, 4), `"dim":4}`, fmt.Sprintf(`"dim":4,"tokens":%d,"tokens_max":%d}`, tokens, most), 1)
}

func capped(tokens int64) *Submit {
	s := newSubmit()
	s.MaxTotalTokens = &tokens
	return s
}

func capCost(usd float64) *Submit {
	s := newSubmit()
	s.MaxCost = &usd
	return s
}

// asked serves the emulator, and returns the calls that are not a GET.
func (g *google) asked() *[]string {
	calls := &[]string{}
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			*calls = append(*calls, r.Method+" "+r.URL.Path)
		}
		g.ServeHTTP(w, r)
	}))
	return calls
}

// A batch is refused before a byte is sent. Later batches that fit are submitted.
func TestSubmitCaps(t *testing.T) {
	t.Setenv(model.PricesVariable, "")
	const two, one = "b01ARZ3NDEKTSV4RRFFQ69G5FAV", "own"
	in := priced("own", 2, 150, 200) + priced(two, 3, 220, 300) + priced("third", 1, 70, 100)
	for _, c := range []struct {
		name  string
		s     *Submit
		jobs  int // of three
		words []string
	}{
		{"exactly", capped(600), 3, nil},
		{"one token less", capped(599), 2, []string{"batch third is not submitted", "--max-total-tokens allows 599 tokens (used: 500 tokens, needed: 100 tokens)", "run it again with a higher cap"}},
		{"the second does not fit", capped(499), 2, []string{"batch " + two + " is not submitted, and nothing of it was sent", "stays claimed", "chunks-release"}},
		{"nothing", capped(0), 0, []string{"batch own"}},
		{"exactly in dollars", capCost(600 * 0.075 / 1e6), 3, nil},
		{"one token less in dollars", capCost(599 * 0.075 / 1e6), 2, []string{"--max-cost allows $0.000044925 (used: $0.0000375, needed: $0.0000075)"}},
		{"no dollars", capCost(0), 0, []string{"--max-cost allows $0 "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{Polls: 100})
			calls := g.asked()
			var out string
			if c.jobs == 3 {
				out = g.ok(c.s, in)
			} else {
				out = g.fails(c.s, in, exit.Refused, c.words...)
			}
			g.jobs(c.jobs)
			g.files(c.jobs)
			if n := len(jobsOf(t, out)); n != c.jobs || c.jobs == 0 && len(*calls) > 0 {
				t.Errorf("%d jobs were printed; sent %v", n, *calls)
			}
			// What an earlier run created costs nothing again.
			rest := g.ok(capped(600-int64(map[int]int{0: 0, 2: 300, 3: 600}[c.jobs])), in)
			if n := len(jobsOf(t, rest)); n != 3 {
				t.Errorf("with a cap for the rest, %d jobs were printed", n)
			}
			g.jobs(3)
			if again := g.ok(capped(0), in); again != rest {
				t.Errorf("adopted %s, not %s", again, rest)
			}
			// Also if only Google's list knows the jobs.
			if err := os.RemoveAll(g.state); err != nil {
				t.Fatal(err)
			}
			if n := len(jobsOf(t, g.ok(capped(0), in))); n != 3 {
				t.Errorf("adopted %d jobs", n)
			}
			g.jobs(3)
		})
	}
}

// If a reply was lost, the job that was created counts. A create that Google
// refused does not.
func TestSubmitCapsCountWhatWasCreated(t *testing.T) {
	in := priced("a", 1, 70, 100) + priced("b", 1, 70, 100)
	for fault, jobs := range map[string]int{"create nth=1 drop when=after": 1, "create nth=1 status=400": 1} {
		g := newGoogle(t, emulator.Options{Polls: 100})
		g.faults(fault)
		out, err := g.run(capped(199), in)
		if g.jobs(jobs); err == nil || len(jobsOf(t, out)) != 1 || strings.Contains(err.Error(), "batch a") != strings.Contains(fault, "400") {
			t.Errorf("%s: %v, printed %s", fault, err, out)
		}
	}
}

// Without tokens_max, a request counts the model's limit, and so does a canary.
func TestSubmitCapsWithoutEstimate(t *testing.T) {
	t.Setenv(model.PricesVariable, "")
	g := newGoogle(t, emulator.Options{Polls: 100})
	g.fails(capped(3*2048-1), batch("b1", 3, 4), exit.Refused, "needed: 6144 tokens")
	g.ok(capped(3*2048), batch("b1", 3, 4))
	s := capped(100 + 2*2048 - 1)
	s.Canary = 2
	g.fails(s, priced("b2", 2, 70, 100), exit.Refused, "needed: 4196 tokens")
	s = capped(100 + 2*2048)
	s.Canary = 2
	g.ok(s, priced("b2", 2, 70, 100))
	s = capped(2 * 2048)
	g.ok(s, requestLine("x", "hand made", 4)+requestLine("y", "without a header", 4))
	s = capped(1 << 60)
	other := strings.ReplaceAll(batch("b3", 1, 4), "gemini-embedding-001", "gemini-embedding-007")
	g.fails(s, other, exit.Refused, "no tokens_max", "gemini-embedding-007 is not known")
	g.fails(capCost(1e9), strings.ReplaceAll(priced("b4", 1, 7, 10), "gemini-embedding-001", "gemini-embedding-007"), exit.Refused, model.PricesVariable)
	g.jobs(3)

	file := filepath.Join(t.TempDir(), "prices")
	t.Setenv(model.PricesVariable, file)
	if err := os.WriteFile(file, []byte(`{"usd_per_million_tokens":{"gemini-embedding-001":{"batch":0}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	g.ok(capCost(0), priced("b5", 1, 70, 100))
	g.jobs(4)

	s = capped(1)
	s.Method = "generate"
	g.fails(s, batch("b6", 1, 4), exit.Usage, "--method embed")
	g.fails(capped(-1), "", exit.Usage, "--max-total-tokens")
	g.fails(capCost(math.NaN()), "", exit.Usage, "--max-cost")
	g.fails(newSubmit(), strings.Replace(batch("b7", 1, 4), `"dim":4`, `"dim":4,"tokens_max":-1`, 1), exit.Malformed, "tokens_max is -1")
	g.fails(newSubmit(), strings.Replace(batch("b7", 1, 4), `"dim":4`, `"dim":4,"tokens":"7"`, 1), exit.Malformed, `tokens is "7"`)
}

// --dry-run says what a run would do with each batch, and changes nothing.
func TestSubmitDryRun(t *testing.T) {
	t.Setenv(model.PricesVariable, "")
	g := newGoogle(t, emulator.Options{Polls: 100})
	dry := newSubmit()
	dry.DryRun = true
	first := oneJob(t, g.ok(newSubmit(), priced("receipt", 1, 70, 100)))
	listed := oneJob(t, g.ok(newSubmit(), priced("listed", 1, 70, 100)))
	notes, err := ledger.Look()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range notes.Names() {
		if ledger.Batch(name) == "listed" {
			os.Remove(filepath.Join(g.state, name+".json"))
		}
	}
	short := newSubmit()
	g.faults("create drop")
	g.fails(short, priced("lost", 1, 70, 100), exit.Unknown)
	g.faults()
	g.faults("create drop when=after", "list status=400 nth=2")
	g.fails(short, priced("found", 1, 70, 100), exit.Unknown)
	g.faults()
	jobs := g.books().Creates

	state := func() string {
		var all strings.Builder
		files, _ := os.ReadDir(g.state)
		for _, f := range files {
			text, _ := os.ReadFile(filepath.Join(g.state, f.Name()))
			fmt.Fprintf(&all, "%s\n%s", f.Name(), text)
		}
		return all.String()
	}
	before, uploads := state(), len(g.books().Uploaded)
	calls := g.asked()
	held, err := notes.Try(ledger.Name("busy", payloadHash(t, priced("busy", 1, 70, 100))))
	if err != nil {
		t.Fatal(err)
	}
	out := g.ok(dry, priced("receipt", 1, 70, 100)+priced("new", 2, 2_000_000, 2_700_000)+priced("listed", 1, 70, 100)+priced("lost", 1, 70, 100)+priced("found", 1, 70, 100)+priced("busy", 1, 70, 100)+batch("plain", 1, 4))
	held.Close()
	var got []string
	for line := range strings.Lines(out) {
		var l planned
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		usd := ""
		if l.USD != nil {
			usd = fmt.Sprint(*l.USD)
		}
		got = append(got, fmt.Sprintf("%s %s %d %d %s %v", l.Batch, l.Action, l.Requests, l.TokensMax, usd, l.Bytes > 90))
		if adopts := map[string]string{"receipt": first.Job, "listed": listed.Job}[l.Batch]; adopts != "" && l.Job != adopts || l.Action != "adopt" && l.Job != "" || (l.Action == "wait") != (l.Reason != "") {
			t.Errorf("%s", line)
		}
	}
	want := []string{"receipt adopt 1 100  true", "new create 2 2700000 0.15 true", "listed adopt 1 100  true", "lost wait 1 100  true", "found adopt 1 100  true", "busy wait 1 100  true", "plain create 1 0  true"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("planned\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(*calls) > 0 || state() != before || g.books().Creates != jobs || len(g.books().Uploaded) != uploads {
		t.Errorf("a dry run sent %v, and left\n%s\nwhere there was\n%s", *calls, state(), before)
	}

	// It says the refusal of a real run.
	c := capped(150)
	c.DryRun = true
	out = g.fails(c, priced("receipt", 1, 70, 100)+priced("x", 1, 70, 100)+priced("y", 1, 70, 100), exit.Refused, "batch y is not submitted")
	if strings.Count(out, "\n") != 2 {
		t.Errorf("planned %s", out)
	}
	// Without a state folder it creates none.
	if err := os.RemoveAll(g.state); err != nil {
		t.Fatal(err)
	}
	g.ok(dry, priced("receipt", 1, 70, 100))
	if _, err := os.Stat(g.state); err == nil {
		t.Error("a dry run created the state folder")
	}
}

func payloadHash(t *testing.T, in string) string {
	payloads, err := cutInput(newSubmit(), in)
	if err != nil || len(payloads) != 1 {
		t.Fatal(err)
	}
	defer payloads[0].close()
	return payloads[0].hash
}
