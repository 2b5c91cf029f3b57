package emulator

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestBooks(t *testing.T) {
	dir := t.TempDir()
	c := serve(t, Options{Dir: dir, Polls: 1})
	same := `{"key":"%s","request":{"content":{"parts":[{"text":"t"}]},%s"outputDimensionality":3}}`
	first := c.job(model001,
		fmt.Sprintf(same, "plain", ""),
		fmt.Sprintf(same, "titled", `"title":"x",`),
		fmt.Sprintf(same, "task", `"taskType":"CLUSTERING",`),
		line("long", "t", 4),
		fmt.Sprintf(same, "gbatch-canary:0:plain", ""),
		line("empty", "", 3),
	)
	b := c.books()
	if b.RequestsCreated != 5 || b.RequestsPaid != 5 || b.Texts != 5 || b.MaxPaid != 1 || b.Canaries != 1 || len(b.PaidTwice) != 0 {
		t.Errorf("while at work: %+v", b)
	}
	c.finish(first)
	second := c.job(model001, fmt.Sprintf(same, `pl\u0061in`, ""))
	other := c.job(model2, fmt.Sprintf(same, "plain", ""))
	cancelledJob := c.job(model001, fmt.Sprintf(same, "plain", ""))
	c.do("POST", "/v1beta/"+cancelledJob+":cancel", nil).ok(t)
	c.finish(other)
	c.do("DELETE", "/v1beta/"+first, nil).ok(t)

	check := func(b *Books) {
		t.Helper()
		if b.Creates != 4 || b.DeletedJobs != 1 || b.Jobs[succeeded] != 2 || b.Jobs[pending] != 1 || b.Jobs[cancelled] != 1 {
			t.Errorf("jobs: %+v", b)
		}
		if b.RequestsCreated != 8 || b.RequestsPaid != 6 || b.RequestsFailed != 1 || b.RequestsSpoiled != 0 || b.Canaries != 1 || b.Texts != 5 || b.MaxPaid != 2 || b.Tokens != 9 {
			t.Errorf("requests: %+v", b)
		}
		if len(b.PaidTwice) != 1 || b.PaidTwice[0].Count != 2 || !slices.Equal(b.PaidTwice[0].Keys, []string{"plain", "plain"}) || !slices.Equal(b.PaidTwice[0].Jobs, []string{first, second}) {
			t.Errorf("paid twice: %+v", b.PaidTwice)
		}
		if len(b.Uploaded) != 4 || len(b.Generated) != 2 || b.Uploaded[0].DisplayName != "input" || b.Generated[0].Name != strings.Replace(first, "batches/", "files/batch-", 1) {
			t.Errorf("files: %+v %+v", b.Uploaded, b.Generated)
		}
	}
	b = c.books()
	check(b)
	if b.Operations["create"]["200"] != 4 || b.Operations["upload.start"]["200"] != 4 || b.Operations["get"]["200"] != 4 || b.Operations["cancel"]["200"] != 1 {
		t.Errorf("operations: %v", b.Operations)
	}

	again := serve(t, Options{Dir: dir})
	got := again.books()
	check(got)
	if !reflect.DeepEqual(got, b) {
		t.Errorf("after a restart: %+v\nbefore: %+v", got, b)
	}
	if err := os.WriteFile(again.s.jobPath(strings.TrimPrefix(second, "batches/"), ".paid"), []byte("damage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again.do("GET", "/emulator/books", nil).refused(t, 500, "INTERNAL", "damaged")
}
