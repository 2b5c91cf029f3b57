package progress

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

func TestReport(t *testing.T) {
	task := New("gbatch-submit")
	ctx := With(context.Background(), task)
	batches, bytes := Of(ctx).Count("batches"), Of(ctx).Flow("bytes")
	if Of(ctx).Count("batches") != batches {
		t.Error("a unit has two counts")
	}
	batches.Expect(3)
	bytes.Expect(6000)
	var adders sync.WaitGroup
	for range 10 {
		adders.Go(func() { bytes.Add(200) })
	}
	adders.Wait()
	batches.Add(1)
	task.begun = time.Now().Add(-2 * time.Second)
	task.Oldest(time.Now().Add(-3*time.Hour-time.Minute), time.Now().Add(45*time.Hour))
	r := task.Report()
	if f := r.Figures[1]; f.Done != 2000 || f.Rate < 900 || f.Rate > 1100 || r.Left != 0 || r.Row().Part >= 0 {
		t.Errorf("%+v", r)
	}
	if got, want := r.String(), "1 of 3+ batches, 2.0 kB, "; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "B/s, oldest 3h01m, expires in 44h") {
		t.Errorf("the row is %q", got)
	}
	batches.Final()
	bytes.Final()
	task.Oldest(time.Time{}, time.Time{})
	r = task.Report() // at 1,000 bytes a second, 4,000 bytes are left
	if left := r.Left.Seconds(); left < 3.5 || left > 4.5 || r.Row().Part != 2000.0/6000 || strings.Contains(r.String(), "oldest") {
		t.Errorf("%+v", r)
	}
	bytes.Set(9000) // more than the total
	if r = task.Report(); r.Row().Part != 1 {
		t.Errorf("%+v", r)
	}
	if got := r.Whole().String(); !strings.Contains(got, " in 2.") || strings.Contains(got, "left") {
		t.Errorf("at the end it is %q", got)
	}
}

// Rates are those of the last seconds.
func TestRate(t *testing.T) {
	task := New("x")
	lines := task.Flow("lines")
	now := time.Now()
	task.samples = []sample{{now.Add(-30 * time.Second), []int64{0}}, {now.Add(-20 * time.Second), []int64{1000}}, {now.Add(-5 * time.Second), []int64{1000}}}
	lines.Set(1500)
	if rate := task.Report().Figures[0].Rate; rate < 20 || rate > 30 {
		t.Errorf("500 lines in 20 seconds are %v a second", rate)
	}
	if n := len(task.samples); n != 3 {
		t.Errorf("%d samples are kept", n)
	}
}

// Code that counts runs without a task too.
func TestNobodyWatches(t *testing.T) {
	task := Of(context.Background())
	c := task.Count("lines")
	c.Add(1)
	c.Set(1)
	c.Expect(1)
	c.Final()
	task.Oldest(time.Now(), time.Now())
	if c.Done() != 0 {
		t.Error("a nil count counts")
	}
}

func TestLines(t *testing.T) {
	rows := []Row{{"chunks-pending", -1, "7 chunks"}, {"gbatch-wait", 0.5, "12 of 40 jobs, 52 of 80 requests, oldest 3h02m, expires in 44h"}}
	for columns, want := range map[int]string{
		120: "chunks-pending                        7 chunks\n" + "gbatch-wait     ██████████░░░░░░░░░░  12 of 40 jobs, 52 of 80 requests, oldest 3h02m, expires in 44h",
		92:  "chunks-pending              7 chunks\n" + "gbatch-wait     █████░░░░░  12 of 40 jobs, 52 of 80 requests, oldest 3h02m, expires in 44h",
		80:  "chunks-pending  7 chunks\n" + "gbatch-wait     12 of 40 jobs, 52 of 80 requests, oldest 3h02m, expires in 44h",
		60:  "chunks-pending  7 chunks\n" + "gbatch-wait     12 of 40 jobs, 52 of 80 requests, oldest 3…",
		20:  "pending 7 chunks\n" + "wait 12 of 40 jobs…",
		5:   "pen…\n" + "wai…",
		1:   "…\n" + "…",
	} {
		got := lines(rows, columns)
		if strings.Join(got, "\n") != want {
			t.Errorf("on %d columns the rows are\n%s", columns, strings.Join(got, "\n"))
		}
		for _, l := range got {
			if n := utf8.RuneCountInString(l); n > max(columns-1, 1) {
				t.Errorf("on %d columns a row has %d", columns, n)
			}
		}
	}
}

func TestFormats(t *testing.T) {
	for bytes, want := range map[float64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 99_949: "99.9 kB", 99_960: "100 kB", 999_600: "1.0 MB", 34_100_000: "34.1 MB", 1.234e9: "1.23 GB", 2e12: "2000.00 GB"} {
		if got := size(bytes); got != want {
			t.Errorf("%v bytes are %q, not %q", bytes, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0s", 1240 * time.Millisecond: "1.2s", 10 * time.Second: "10s", 83 * time.Second: "1m23s",
		2*time.Hour + 3*time.Minute + 59*time.Second: "2h03m", 10 * time.Hour: "10h", 47*time.Hour + 59*time.Minute: "47h", 100 * time.Hour: "4d",
	} {
		if got := Span(d); got != want {
			t.Errorf("%v is %q, not %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := Commas(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
	if plural(1, "batches") != "batch" || plural(1, "jobs") != "job" || plural(2, "jobs") != "jobs" || plural(1, "bytes") != "byte" {
		t.Error("the words for one thing are wrong")
	}
}
