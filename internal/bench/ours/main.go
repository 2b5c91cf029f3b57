// Ours does the work of the filters in one process with a profiler, and
// fetches results without a server: its connection is a file.
//
//	ours [-cpuprofile FILE] [-times N] fetch results.jsonl < job.ndjson
//	ours [-cpuprofile FILE] to-jsonl < chunks.ndjson
//	ours [-cpuprofile FILE] submit < requests.ndjson
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/gbatch"
	"gbatch/pkg/render"
)

func main() {
	profile := flag.String("cpuprofile", "", "write a profile to this file")
	times := flag.Int("times", 1, "have the results this often, one after the other in one file")
	flag.Parse()
	err := run(*profile, *times)
	if code := exit.Code(err); code != 0 {
		fmt.Fprintln(os.Stderr, "ours: error:", err)
		os.Exit(code)
	}
}

func run(profile string, times int) error {
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	var work cli.Command
	switch flag.Arg(0) {
	case "fetch":
		// net/http leaves TLS to this function; nothing is encrypted.
		http.DefaultTransport.(*http.Transport).DialTLSContext = func(context.Context, string, string) (net.Conn, error) {
			return &conn{file: flag.Arg(1), times: times, replies: make(chan io.Reader, 1), closed: make(chan struct{})}, nil
		}
		os.Setenv("GOOGLE_GEMINI_BASE_URL", "https://127.0.0.1")
		os.Setenv("GEMINI_API_KEY", "bench")
		work = &gbatch.Fetch{RetryFor: time.Second}
	case "to-jsonl":
		work = new(render.ToJSONL)
	case "submit":
		work = &gbatch.Submit{Method: "embed", MaxJobs: 50, RetryFor: time.Second, Model: "gemini-embedding-001", MaxRequests: 10_000, MaxBytes: 100e6}
	default:
		return fmt.Errorf("unknown work %q", flag.Arg(0))
	}
	return work.Run(context.Background(), os.Stdin, os.Stdout)
}

// A conn is a connection to a server without cost: a status is always the same
// few bytes, a download is read from the page cache.
type conn struct {
	file    string
	times   int
	request []byte
	replies chan io.Reader
	reply   io.Reader
	closed  chan struct{}
}

func (c *conn) Write(p []byte) (int, error) {
	c.request = append(c.request, p...)
	for {
		head, rest, whole := bytes.Cut(c.request, []byte("\r\n\r\n"))
		if !whole {
			return len(p), nil
		}
		reply, err := c.answer(string(head))
		if err != nil {
			return 0, err
		}
		c.replies <- reply
		c.request = rest
	}
}

func (c *conn) answer(request string) (io.Reader, error) {
	body, size := io.Reader(nil), int64(0)
	if strings.Contains(request, ":download") {
		var all []io.Reader
		for range c.times {
			f, err := os.Open(c.file)
			if err != nil {
				return nil, err
			}
			info, err := f.Stat()
			if err != nil {
				return nil, err
			}
			size += info.Size()
			all = append(all, f)
		}
		body = io.MultiReader(all...)
	} else {
		_, path, _ := strings.Cut(request, "/batches/")
		job, _, _ := strings.Cut(path, " ")
		job, _, _ = strings.Cut(job, "?")
		status := fmt.Sprintf(`{"name":"batches/%s","done":true,"metadata":{"state":"BATCH_STATE_SUCCEEDED","output":{"responsesFile":"files/x"}}}`, job)
		body, size = strings.NewReader(status), int64(len(status))
	}
	return io.MultiReader(strings.NewReader(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)), body), nil
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		if c.reply == nil {
			select {
			case c.reply = <-c.replies:
			case <-c.closed:
				return 0, net.ErrClosed
			}
		}
		n, err := c.reply.Read(p)
		if errors.Is(err, io.EOF) {
			c.reply, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *conn) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return nil
}

func (c *conn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *conn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
