package split

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/record"
)

func newCutter(most int) *cutter {
	space := model.Space{Model: model.Default, Dim: model.DefaultDim, TaskType: model.DefaultTaskType}
	return &cutter{int64(most), space.Estimator(1)}
}

// check tests what must be true of the chunks of any file: nothing is lost or there
// twice, ids are unique, and no chunk is too long.
func check(t *testing.T, name, source string, most int) []record.Chunk {
	t.Helper()
	c := newCutter(most)
	chunks := c.chunks(name, []byte(source))
	var all strings.Builder
	seen := map[string]bool{}
	for _, chunk := range chunks {
		all.WriteString(chunk.Text)
		if seen[chunk.ID] {
			t.Errorf("the id %q is there twice", chunk.ID)
		}
		seen[chunk.ID] = true
		if n := c.tokens.Request(chunk.Title, chunk.Text).Uncut; n > int64(most) {
			t.Errorf("%q has %d tokens", chunk.ID, n)
		}
		line := record.AppendChunk(nil, chunk.ID, chunk.Text, chunk.Title)
		var again record.Chunk
		if _, err := again.Parse(bytes.TrimSpace(line)); err != nil || again != chunk {
			t.Errorf("%s is read as %+v (%v)", line, again, err)
		}
	}
	if strings.HasSuffix(name, ".md") {
		source = source[frontMatter([]byte(source)):]
	}
	if got, want := squeeze(all.String()), squeeze(source); got != want {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		t.Errorf("the texts differ from the file at %q: %q", want[at:min(at+40, len(want))], got[at:min(at+40, len(got))])
	}
	return chunks
}

// squeeze removes white space.
func squeeze(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

func TestMarkdown(t *testing.T) {
	for _, c := range []struct {
		name, source string
		want         []record.Chunk
	}{
		{"nothing", "", nil},
		{"blank", " \n\n\t\n", nil},
		{"front matter only", "---\ntitle: x\n---\n", nil},
		{"text only", "\n\n  some\ntext\n\n", []record.Chunk{{ID: "a.md", Text: "  some\ntext"}}},
		{"headings", "---\ntitle: x\n---\nBefore.\n\n# Animals\n\nAll of them.\n\n## Gophers\nThey dig.\n\nMoles\n-----\n\nThey dig, too.\n\n# End ##\nThe end.\n", []record.Chunk{
			{ID: "a.md", Text: "Before."},
			{ID: "a.md#Animals", Title: "Animals", Text: "# Animals\n\nAll of them."},
			{ID: "a.md#Animals/Gophers", Title: "Animals > Gophers", Text: "## Gophers\nThey dig."},
			{ID: "a.md#Animals/Moles", Title: "Animals > Moles", Text: "Moles\n-----\n\nThey dig, too."},
			{ID: "a.md#End", Title: "End", Text: "# End ##\nThe end."},
		}},
		{"equal headings", "# A\n## B\n1\n## B\n2\n### C\n3\n# A\n## B\n4\n", []record.Chunk{
			{ID: "a.md#A/B", Title: "A > B", Text: "# A\n## B\n1"},
			{ID: "a.md#A/B~2", Title: "A > B", Text: "## B\n2"},
			{ID: "a.md#A/B~2/C", Title: "A > B > C", Text: "### C\n3"},
			{ID: "a.md#A~2/B", Title: "A > B", Text: "# A\n## B\n4"},
		}},
		{"headings that look like ids", "# A/B\n1\n# A\n## B\n2\n# A~2\n3\n# A\n4\n# A%2FB\n5\n# 100% #1\n6\n#\n7\n#\n8", []record.Chunk{
			{ID: "a.md#A%2FB", Title: "A/B", Text: "# A/B\n1"},
			{ID: "a.md#A/B", Title: "A > B", Text: "# A\n## B\n2"},
			{ID: "a.md#A%7E2", Title: "A~2", Text: "# A~2\n3"},
			{ID: "a.md#A~2", Title: "A", Text: "# A\n4"},
			{ID: "a.md#A%252FB", Title: "A%2FB", Text: "# A%2FB\n5"},
			{ID: "a.md#100% #1", Title: "100% #1", Text: "# 100% #1\n6"},
			{ID: "a.md#~", Text: "#\n7"},
			{ID: "a.md#~~2", Text: "#\n8"},
		}},
		{"headings without text", "# A\n\n## B\n\n### C\n\n# D\ntext\n\n## E\n", []record.Chunk{
			{ID: "a.md#A/B/C", Title: "A > B > C", Text: "# A\n\n## B\n\n### C"},
			{ID: "a.md#D", Title: "D", Text: "# D\ntext"},
			{ID: "a.md#D/E", Title: "D > E", Text: "## E"},
		}},
		{"markup in headings", "# *A* `b` [c](http://d) ![e](f) <http://g> &amp; \\# h {#i}\ntext", []record.Chunk{
			{ID: "a.md#A b c e http:%2F%2Fg & # h", Title: "A b c e http://g & # h", Text: "# *A* `b` [c](http://d) ![e](f) <http://g> &amp; \\# h {#i}\ntext"},
		}},
		{"what is no heading", "> # quoted\n\n- # in a list\n\n```sh\n# a comment\n```\n\n    # code\n\n<!--\n# comment\n-->\n\n#hash\n", []record.Chunk{
			{ID: "a.md", Text: "> # quoted\n\n- # in a list\n\n```sh\n# a comment\n```\n\n    # code\n\n<!--\n# comment\n-->\n\n#hash"},
		}},
		{"not shown", "# A\ntext\n\n[x]: http://y\n\n***\n\n[z]: http://y\n# B\n[w]: http://y\n", []record.Chunk{
			{ID: "a.md#A", Title: "A", Text: "# A\ntext\n\n[x]: http://y\n\n***\n\n[z]: http://y"},
			{ID: "a.md#B", Title: "B", Text: "# B\n[w]: http://y"},
		}},
		{"dashes without front matter", "---\n\ntext\n\n---\n", []record.Chunk{{ID: "a.md", Text: "---\n\ntext\n\n---"}}},
		{"TOML", "+++\ntitle = \"x\"\n+++\ntext\n", []record.Chunk{{ID: "a.md", Text: "text"}}},
		{"CRLF", "---\r\ntitle: x\r\n---\r\n# A\r\ntext\r\n\r\n# B\r\ntext\r\n", []record.Chunk{
			{ID: "a.md#A", Title: "A", Text: "# A\r\ntext"},
			{ID: "a.md#B", Title: "B", Text: "# B\r\ntext"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := check(t, "a.md", c.source, 1000); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func ids(chunks []record.Chunk) (ids []string) {
	for _, c := range chunks {
		ids = append(ids, c.ID)
	}
	return ids
}

// A section that is inserted, or grows, does not change the ids of the others.
func TestStableIDs(t *testing.T) {
	long := strings.Repeat("A sentence of some words. ", 100)
	sections := []string{"Before.\n", "# A\ntext\n", "## B\n" + long + "\n", "## C\ntext\n", "# D\ntext\n", "## B\ntext\n"}
	before := check(t, "a.md", strings.Join(sections, ""), 200)
	texts := map[string]string{}
	for _, c := range before {
		texts[c.ID] = c.Text
	}
	for at := range sections {
		for _, added := range []string{"# New\ntext\n", "## New\ntext\n", "### New\ntext\n"} {
			if at < 1 || strings.HasPrefix(added, "# ") && strings.HasPrefix(sections[at], "## ") {
				continue // the new heading would be above the others
			}
			changed := strings.Join(sections[:at], "") + added + strings.Join(sections[at:], "")
			found := 0
			for _, c := range check(t, "a.md", changed, 200) {
				if texts[c.ID] == c.Text {
					found++
				} else if !strings.Contains(c.ID, "New") {
					t.Errorf("with %q at %d: %s is new", added, at, c.ID)
				}
			}
			if found != len(before) {
				t.Errorf("with %q at %d: %d of %d chunks are as before", added, at, found, len(before))
			}
		}
	}
}

// Long sections are cut at the best places.
func TestCut(t *testing.T) {
	paragraph := strings.TrimSpace(strings.Repeat("some words of a paragraph ", 24))
	code := "```go\n" + strings.Repeat("x = 1. + y // not. a. sentence.\n", 6) + "```"
	rows := "| a | b |\n|---|---|\n" + strings.Repeat("| one. | two. |\n", 8)
	for _, c := range []struct {
		name, source string
		most         int
		want         []string // the beginnings of the chunks
	}{
		{"paragraphs", strings.Join([]string{paragraph, paragraph, paragraph}, "\n\n"), 280, []string{"some words", "some words"}},
		{"code stays whole", paragraph + "\n\n" + code + "\n\n" + paragraph, 180, []string{"some words", "```go", "some words"}},
		{"a table stays whole", paragraph + "\n\n" + rows + "\n" + paragraph, 150, []string{"some words", "| a | b |", "some words"}},
		{"long code is cut at lines", code, 64, []string{"```go", "x = 1. + y"}},
		{"a long table is cut at rows", rows + strings.Repeat("| one. | two. |\n", 8), 70, []string{"| a | b |", "| one."}},
		{"sentences", strings.Repeat("This is one of the sentences of a paragraph\nthat is very long. ", 10), 64, []string{"This", "This", "This"}},
		{"Chinese sentences", strings.Repeat("这是一个很长的段落中的一个句子。", 20), 64, nil},
		{"words", strings.Repeat("words without an end ", 60), 64, nil},
		{"one word", strings.Repeat("abcdef0123", 100), 64, nil},
		{"one word of large characters", strings.Repeat("𝔘🙂", 300), 64, nil},
		{"a long heading", "# " + strings.Repeat("very long heading ", 100) + "\ntext\n", 100, nil},
		{"many long headings", "# " + strings.Repeat("one ", 20) + "\n## " + strings.Repeat("two ", 20) + "\n### three\ntext\n", 64, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			chunks := check(t, "a.md", c.source, c.most)
			if len(chunks) < 2 && c.name != "many long headings" {
				t.Errorf("%d chunks", len(chunks))
			}
			for i, chunk := range chunks {
				if !utf8.ValidString(chunk.Text + chunk.ID + chunk.Title) {
					t.Errorf("%q is not UTF-8", chunk)
				}
				if c.want != nil && (i >= len(c.want) || !strings.HasPrefix(chunk.Text, c.want[i])) {
					t.Errorf("chunk %d is %q", i, chunk.Text)
				}
			}
			if c.want != nil && len(chunks) != len(c.want) {
				t.Errorf("%d chunks: %q", len(chunks), chunks)
			}
		})
	}
}

// No chunk is too long, also if tokens of its pieces are fewer than those of the
// whole.
func TestCutSums(t *testing.T) {
	for most := leastTokens; most < 400; most++ {
		for _, title := range []string{"one", "two words", "three more words"} {
			check(t, "a.md", "# "+title+"\n\n"+strings.Repeat("!", 1000), most)
		}
	}
}

// The indentation of a chunk's first line counts.
func TestCutIndented(t *testing.T) {
	const item = "\t* zstd: Various minor improvements by @greatroar in https://github.com/klauspost/compress/pull/788 https://github.com/klauspost/compress/pull/794 https://github.com/klauspost/compress/pull/795"
	for end := range len(item) + 1 {
		check(t, "a.md", "# changelog\n\nfirst words\n\n"+item[:end]+"\n\n"+item+"\n", leastTokens)
	}
}

// Ids of different files and sections are different.
func TestCollisions(t *testing.T) {
	seen := map[string]string{}
	long := strings.Repeat("words and words and words ", 100)
	for _, name := range []string{"a.md", "a.md#A", "a.md#A.md", "a.md%23A.md", "a.md#~p2.md", "a.md~p2", "a.txt", "A/a.md"} {
		for _, c := range check(t, name, long+"\n# A\n"+long+"\n# A~p2\ntext\n# ~p2\ntext\n#\n"+long+"\n# A\ntext\n# 2\n# p2", 200) {
			if other := seen[c.ID]; other != "" {
				t.Errorf("%s is in %s and in %s", c.ID, name, other)
			}
			seen[c.ID] = name
		}
	}
	a, b := strings.Repeat("long ", 50)+"a", strings.Repeat("long ", 50)+"b"
	if got := ids(check(t, "a.md", "# "+a+"\nx\n# "+b+"\nx\n", 1000)); len(got) != 2 || len(got[0]) > 200 {
		t.Errorf("ids of long headings: %q", got)
	}
}

// FuzzChunks checks what must be true of any file.
func FuzzChunks(f *testing.F) {
	pages, _ := filepath.Glob("../../docs/*.md")
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), 200)
	}
	for _, s := range []string{
		"---\na: b\n---\n# A\n\ntext", "a\n===\nb\n---\nc", "```\n# x\n", "# A\r\n\r\n# A\r\n", "- a\n\n  # b\n\n# c", "<pre>\n\n# x\n</pre>\n# y",
		"\ta\n# b", "> a\n# b\n> c", "#\n#\n##\n#", "[a]: b\n# c\n[d]:\n\n# e", "1. a\n   b\n---\n# c", "\u2028# a\n\u00a0\n# b", "| a |\n|-|\n# c\n", "\r# a\r\n#b\r",
	} {
		f.Add(s, 64)
	}
	f.Fuzz(func(t *testing.T, source string, most int) {
		if !utf8.ValidString(source) || strings.Contains(source, "\x00") || most < leastTokens || most > 1<<20 {
			return
		}
		check(t, "a.md", source, most)
		check(t, "a.txt", source, most)
	})
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		"a.md": "\xef\xbb\xbf# A\ntext", "b.txt": "# not a heading\n", "c.bin": "a\x00b", "d.md": "fine\nbad \xff\n", "e.md": "", "sub/f.MD": "# F\nx\n", "g\nh.md": "# G\nx",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const all = `{"id":"a.md#A","text":"# A\ntext","title":"A"}` + "\n" + `{"id":"b.txt","text":"# not a heading"}` + "\n" + `{"id":"sub/f.MD#F","text":"# F\nx","title":"F"}` + "\n"
	for _, c := range []struct {
		name string
		cmd  Files
		in   string
		want string
		code int
	}{
		{"arguments", Files{Files: []string{"a.md", "./b.txt", "e.md", "sub//f.MD", "sub/../a.md"}}, "c.bin\n", all, 0},
		{"names on stdin", Files{}, "a.md\r\n\nb.txt\nsub/f.MD", all, 0},
		{"names with NUL", Files{Null: true}, "a.md\x00b.txt\x00g\nh.md\x00", all[:strings.Index(all, `{"id":"sub`)] + `{"id":"g\nh.md#G","text":"# G\nx","title":"G"}` + "\n", 0},
		{"no names", Files{}, "", "", 0},
		{"left out", Files{Files: []string{"a.md", "c.bin", "d.md", "none.md", "sub", "b.txt", "sub/f.MD", "/dev/null", "\xff"}}, "", all, exit.Partial},
		{"too few tokens", Files{MaxTokens: 10}, "", "", exit.Usage},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.cmd.MaxTokens == 0 {
				c.cmd.MaxTokens = 1000
			}
			var out bytes.Buffer
			err := c.cmd.Run(context.Background(), strings.NewReader(c.in), &out)
			if exit.Code(err) != c.code || out.String() != c.want {
				t.Errorf("%v, printed\n%s", err, out.String())
			}
		})
	}
	for name, want := range map[string]string{
		"c.bin": "binary", "d.md": "line 2 has the byte 0xff", "none.md": "no such file", "sub": "folder", "/dev/null": "not a regular file", "\xff": "not UTF-8",
	} {
		if _, err := read(name); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkMarkdown(b *testing.B) {
	pages, _ := filepath.Glob("../../docs/*.md")
	var source []byte
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			b.Fatal(err)
		}
		source = append(source, text...)
	}
	c, n := newCutter(1000), 0
	b.SetBytes(int64(len(source)))
	for b.Loop() {
		n = len(c.chunks("a.md", source))
	}
	b.ReportMetric(float64(n), "chunks")
}
