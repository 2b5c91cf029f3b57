package emulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Emulator is the command gemini-emulator. Its fields are its flags.
type Emulator struct {
	Listen      string        `help:"Address to listen on; port 0 picks a free one." default:"127.0.0.1:0"`
	AllowRemote bool          `help:"Allow an address other than loopback for --listen."`
	BasePath    string        `help:"Serve all calls below this path, such as /gemini, as behind a gateway." placeholder:"PATH"`
	Dir         string        `help:"Folder for the state, which survives a restart. Without it the state is in a temporary folder, which is removed at the end." type:"path"`
	Key         string        `help:"The only API key that is accepted. Without it every key is accepted."`
	Polls       int           `help:"Number of status requests before a job can end." default:"1"`
	Delay       time.Duration `help:"Minimum time that a job takes." default:"0s"`
	Processing  int           `help:"Number of status requests for which an uploaded file is PROCESSING." default:"0"`
	Vectors     string        `help:"Kind of vectors: ngrams (similar for similar texts) or cheap (fast)." enum:"ngrams,cheap" default:"ngrams"`
	Digits      string        `help:"Digits of the values: float32 (the shortest) or float64." enum:"float32,float64" default:"float32"`
	Tokens      string        `help:"Form of token counts: string, number, usage, or mixed (each form in turn)." enum:"string,number,usage,mixed" default:"string"`
	InOrder     bool          `help:"Write results in the order of the input, not shuffled."`
	Spaces      bool          `help:"Write blanks after colons and commas in result lines."`
	QuotaJobs   int           `help:"Most jobs per project that have not ended. A create above this is a 429." default:"100"`
	QuotaTokens int64         `help:"Most tokens per project in jobs that have not ended. A create above this is a 429. 0 is no limit." default:"0"`
	MaxFile     int64         `help:"Size in bytes of the largest file that may be uploaded." default:"2147483648"`
	TokenLife   time.Duration `help:"How long a token of the metadata server is valid." default:"1h"`
	Fault       []string      `help:"A fault to inject; may be repeated." sep:"none" placeholder:"SPEC"`
	FaultFile   string        `help:"A file with one fault in each line." type:"path"`
}

// usageError is an error in the flags. Its exit code is 2.
type usageError struct{ error }

func usageErrorf(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func (usageError) ExitCode() int { return 2 }

// Run listens, writes {"url":…,"dir":…} to out, and serves until ctx is done.
func (e *Emulator) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if err := e.checkListen(); err != nil {
		return err
	}
	faults := e.Fault
	if e.FaultFile != "" {
		data, err := os.ReadFile(e.FaultFile)
		if err != nil {
			return err
		}
		faults = append(faults, strings.Split(string(data), "\n")...)
	}
	s, err := New(Options{
		Dir: e.Dir, BasePath: e.BasePath, Key: e.Key, Polls: e.Polls, Delay: e.Delay, Processing: e.Processing,
		Cheap: e.Vectors == "cheap", Float64Digits: e.Digits == "float64", Tokens: e.Tokens, InOrder: e.InOrder, Spaces: e.Spaces, MaxJobs: e.QuotaJobs, MaxTokens: e.QuotaTokens, MaxFile: e.MaxFile,
		TokenLife: e.TokenLife, Faults: faults,
	})
	if err != nil {
		return err
	}
	if e.Dir == "" {
		defer os.RemoveAll(s.Dir())
	}
	defer s.Close()
	listener, err := net.Listen("tcp", e.Listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	line, err := json.Marshal(struct {
		URL string `json:"url"`
		Dir string `json:"dir"`
	}{"http://" + listener.Addr().String() + s.base, s.Dir()})
	if err == nil {
		_, err = out.Write(append(line, '\n'))
	}
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// checkListen refuses an address that other machines can reach, because the
// emulator accepts any key and stores everything that it receives.
func (e *Emulator) checkListen() error {
	host, _, err := net.SplitHostPort(e.Listen)
	if err != nil {
		return usageErrorf("bad --listen: %w", err)
	}
	ip := net.ParseIP(host)
	if host == "localhost" || ip != nil && ip.IsLoopback() || e.AllowRemote {
		return nil
	}
	return usageErrorf("--listen %s is not a loopback address: add --allow-remote if other machines may reach it", e.Listen)
}
