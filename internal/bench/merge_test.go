package main

import (
	"strings"
	"testing"
)

func TestMerge(t *testing.T) {
	const old = "# Benchmarks\n\nhead\n\n## Goals\n\n| goal | wanted |\n|---|---|\n| a | 1 |\n| b | 2 |\n\n## vectors-apply\n\n| x |\n\n## The whole pipe\n\nline\n\n## Start-up\n\nkept\n"
	const text = "# Benchmarks\n\nother head\n\n## Goals\n\n| goal | wanted |\n|---|---|\n| b | 3 |\n| c | 4 |\n\n## The whole pipe: processor time\n\ntext\n\n| y |\n|---|\n\n## More\n\n### a profile\n"
	const want = "# Benchmarks\n\nhead\n\n## Goals\n\n| goal | wanted |\n|---|---|\n| a | 1 |\n| b | 3 |\n| c | 4 |\n\n## vectors-apply\n\n| x |\n\n" +
		"## The whole pipe: processor time\n\ntext\n\nNOTE\n\n| y |\n|---|\n\n## More\n\nNOTE\n\n### a profile\n\n## The whole pipe\n\nline\n\n## Start-up\n\nkept\n"
	got := merge(old, text, "NOTE")
	if got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	if again := merge(got, text, "NOTE"); again != want {
		t.Errorf("merged again:\n%s", again)
	}
	if n := strings.Count(merge(want, strings.ReplaceAll(text, "text", "new text"), "NOTE"), "new text"); n != 1 {
		t.Errorf("the new part is there %d times", n)
	}
}
