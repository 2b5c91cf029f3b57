// Package split cuts files of text into chunks.
package split

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
)

const (
	leastTokens = 64       // of --max-tokens
	maxFile     = 64 << 20 // bytes
)

// Files is text-to-chunks: it prints the chunks of files of text.
type Files struct {
	cli.Output `embed:""`

	Null      bool     `short:"0" help:"The names on stdin end with a NUL, as find -print0 writes them." env:"-"`
	MaxTokens int      `help:"Most tokens of a chunk, with its title, as they are estimated." default:"1000" env:"-"`
	Files     []string `arg:"" optional:"" name:"file" help:"The files. Without any, their names are read from stdin, one a line."`
}

// Run prints the chunks of one file after the other, and a [record.End]. It leaves out
// a file that it cannot read as text, and says so: then there is no end.
func (f *Files) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if f.MaxTokens < leastTokens {
		return exit.Errorf(exit.Usage, "--max-tokens must be at least %d", leastTokens)
	}
	space := model.Space{Model: model.Default, Dim: model.DefaultDim, TaskType: model.DefaultTaskType}
	r := &run{
		w: ndjson.NewWriter(out), cutter: cutter{int64(f.MaxTokens), space.Estimator(1)}, seen: map[string]bool{},
		files: progress.Of(ctx).Count("files"), printed: progress.Of(ctx).Flow("chunks"),
	}
	var err error
	if len(f.Files) > 0 {
		r.files.Expect(int64(len(f.Files)))
		r.files.Final()
		for _, name := range f.Files {
			if err = r.file(ctx, name); err != nil {
				break
			}
		}
	} else {
		err = r.named(ctx, in, f.Null)
	}
	if err == nil && r.bad == 0 {
		err = r.w.Encode(record.End{End: true})
	}
	if flushed := r.w.Flush(); err == nil {
		err = flushed
	}
	if err == nil && r.bad > 0 {
		err = exit.Errorf(exit.Partial, "%d of %d files were left out", r.bad, len(r.seen))
	}
	return err
}

// A run is one run of Files.
type run struct {
	cutter
	w              *ndjson.Writer
	seen           map[string]bool // by name
	bad            int             // files that were left out
	files, printed *progress.Count
}

// named prints the chunks of the files whose names are in.
func (r *run) named(ctx context.Context, in io.Reader, null bool) error {
	end := byte('\n')
	if null {
		end = 0
	}
	for names := bufio.NewReader(in); ; {
		name, err := names.ReadString(end)
		if err != nil && err != io.EOF {
			return err
		}
		if name = strings.TrimSuffix(name, string(end)); !null {
			name = strings.TrimSuffix(name, "\r")
		}
		if name != "" {
			r.files.Expect(1)
			if err := r.file(ctx, name); err != nil {
				return err
			}
		}
		if err == io.EOF {
			r.files.Final()
			return nil
		}
	}
}

// file prints the chunks of a file. A file that was printed before is not printed
// again.
func (r *run) file(ctx context.Context, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	name = filepath.Clean(name)
	if r.seen[name] {
		return nil
	}
	r.seen[name] = true
	r.files.Add(1)
	source, err := read(name)
	if err != nil {
		r.bad++
		slog.Warn("a file is left out", "file", name, "reason", err)
		return nil
	}
	for _, c := range r.cutter.chunks(name, source) {
		r.printed.Add(1)
		b := record.AppendChunk(r.w.Begin(), c.ID, c.Text, c.Title)
		if err := r.w.End(b[:len(b)-1]); err != nil { // End adds the line end
			return err
		}
	}
	return nil
}

// read returns the content of a file of text, without a byte order mark.
func read(name string) ([]byte, error) {
	if !utf8.ValidString(name) {
		return nil, errors.New("its name is not UTF-8, so it cannot be part of an id")
	}
	info, err := os.Stat(name)
	switch {
	case err != nil:
	case info.IsDir():
		err = errors.New("it is a folder: name its files, for example with find -type f")
	case !info.Mode().IsRegular():
		err = errors.New("it is not a regular file")
	case info.Size() > maxFile:
		err = errors.New("it is larger than 64 MiB")
	}
	if err != nil {
		return nil, reason(err)
	}
	source, err := os.ReadFile(name)
	if err != nil {
		return nil, reason(err)
	}
	source = bytes.TrimPrefix(source, []byte("\xef\xbb\xbf"))
	if bytes.IndexByte(source, 0) >= 0 {
		return nil, errors.New("it is a binary file, or not UTF-8: it has a NUL")
	}
	if !utf8.Valid(source) {
		at := 0
		for at < len(source) {
			r, n := utf8.DecodeRune(source[at:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			at += n
		}
		return nil, fmt.Errorf("it is not UTF-8: line %d has the byte %#02x; convert it with iconv", 1+bytes.Count(source[:at], []byte("\n")), source[at])
	}
	return source, nil
}

// reason returns the cause of an error about a file, without the file's name.
func reason(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// chunks returns the chunks of a file. A chunk's id is the file's name and the
// headings above the chunk:
//
//	docs/a.md                    before the first heading
//	docs/a.md#Animals/Gophers    below ## Gophers, which is below # Animals
//	docs/a.md#Animals/Gophers~2  below the second ## Gophers there
//	docs/a.md#Animals/Moles~p2   the second part of a section that is too long
func (c *cutter) chunks(name string, source []byte) (chunks []record.Chunk) {
	var sections []section
	switch strings.ToLower(filepath.Ext(name)) {
	case ".md", ".markdown", ".mdown", ".mkd", ".mdx":
		sections = markdown(source)
	default:
		sections = []section{{blocks: []block{{text: string(source)}}}}
	}
	name = escape(filepath.ToSlash(name), "#")
	for _, s := range sections {
		title, id := c.title(s.headings), name
		if len(s.headings) > 0 {
			id += "#" + s.headings[len(s.headings)-1].id
		}
		for i, text := range c.cut(title, s.blocks) {
			part := id
			switch {
			case i > 0 && len(s.headings) == 0:
				part = fmt.Sprintf("%s#~p%d", id, i+1)
			case i > 0:
				part = fmt.Sprintf("%s~p%d", id, i+1)
			}
			chunks = append(chunks, record.Chunk{ID: part, Text: text, Title: title})
		}
	}
	return chunks
}
