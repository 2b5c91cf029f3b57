package gbatch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genai"

	"gbatch/pkg/exit"
	"gbatch/pkg/record"
	"gbatch/pkg/wire"
)

// geminiJobs and geminiFiles match the names that the Gemini API gives.
var (
	geminiJobs  = regexp.MustCompile(`^batches/[A-Za-z0-9_-]+$`)
	geminiFiles = regexp.MustCompile(`^files/[A-Za-z0-9_-]+$`)
)

// geminiInput refuses a job record whose input is not a file of the Gemini API.
func geminiInput(job *record.Job) error {
	if job.Input != "" && !geminiFiles.MatchString(job.Input) {
		return fmt.Errorf("job %s: its input %q is not the name of a file", job.Job, job.Input)
	}
	return nil
}

// A gemini is the backend for the Gemini API, with its Files and Batches. It
// uploads, creates and deletes through Google's SDK. It reads lists, jobs and
// results without the SDK, because the SDK loses parts of them. All calls use
// one [transport].
type gemini struct {
	*wire.Transport
	http     *http.Client
	sdk      *genai.Client
	base     *url.URL
	patience time.Duration // how long transient errors are retried
	generate bool          // create jobs with the generic method
	listed   jobList
}

// newGemini takes the key from GOOGLE_API_KEY, or else from GEMINI_API_KEY, like
// the SDK. It takes the base URL from GOOGLE_GEMINI_BASE_URL.
func newGemini(patience time.Duration) (*gemini, error) {
	variable := "GOOGLE_API_KEY"
	if os.Getenv(variable) == "" {
		variable = "GEMINI_API_KEY"
	}
	key := os.Getenv(variable)
	switch {
	case key == "":
		return nil, exit.Errorf(exit.Usage, "no API key: set GEMINI_API_KEY; to try without a key: gemini-emulator --help")
	case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return nil, exit.Errorf(exit.Usage, "%s is not an API key: it contains a line break, a blank or another character that no API key has", variable)
	}
	u, err := serverURL("GOOGLE_GEMINI_BASE_URL", "https://generativelanguage.googleapis.com/", "the API key")
	if err != nil {
		return nil, err
	}
	// The SDK writes to the standard logger: that CreateEmbeddings is
	// experimental, and which of two keys it uses.
	log.SetOutput(io.Discard)
	t := wire.NewTransport(wire.Credential{Secret: key, Refused: "the API key was refused, check " + variable})
	g := &gemini{Transport: t, http: t.Client(), base: u, patience: patience}
	g.http.Transport = sdkTransport{t, strings.TrimSuffix(u.Path, "/")}
	g.sdk, err = genai.NewClient(context.Background(), &genai.ClientConfig{
		APIKey:      key,
		Backend:     genai.BackendGeminiAPI, // else GOOGLE_GENAI_USE_VERTEXAI decides
		HTTPClient:  g.http,
		HTTPOptions: genai.HTTPOptions{BaseURL: u.String()},
	})
	if err != nil { // err's text holds the whole configuration, with the key
		return nil, errors.New("the client of the Gemini API could not be set up")
	}
	return g, nil
}

func (g *gemini) hide(text string) string { return g.Hide(text) }

// serverURL reads the URL of a server from a variable. It returns nil if neither the
// variable nor otherwise says one. It refuses a URL that would send the secret
// unencrypted.
func serverURL(variable, otherwise, secret string) (*url.URL, error) {
	base := cmp.Or(os.Getenv(variable), otherwise)
	if base == "" {
		return nil, nil
	}
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, exit.Errorf(exit.Usage, "%s is not the URL of a server: set it to https://… or leave it out", variable)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, exit.Errorf(exit.Usage, "%s would send %s to %s unencrypted: use https", variable, secret, u.Hostname())
	}
	return u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// request returns a request below v1beta/, which is sent without the SDK.
func (g *gemini) request(ctx context.Context, method, path, query string, body io.Reader) (*http.Request, error) {
	u := g.base.JoinPath("v1beta", path)
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, wire.Permanent(err)
	}
	req.Header.Set("x-goog-api-key", g.Secret)
	return req, nil
}

// read sends a GET and returns the whole reply.
func (g *gemini) read(ctx context.Context, path, query string) ([]byte, error) {
	req, err := g.request(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return nil, err
	}
	body, _, err := g.Whole(req)
	if err == nil && len(bytes.TrimSpace(body)) == 0 {
		err = errors.New("the reply is empty")
	}
	return body, err
}

// list calls each with the pages of a list until it wants no more. member is the
// name of the member that holds the items. A page that fails with a transient
// error is requested again.
func (g *gemini) list(ctx context.Context, path, member string, each func(items []json.RawMessage) (more bool, err error)) error {
	return wire.EveryPage(ctx, path, func(ctx context.Context, token string) (p wire.Page, err error) {
		query := url.Values{"pageSize": {strconv.Itoa(wire.PageSize)}}
		if token != "" {
			query.Set("pageToken", token)
		}
		err = wire.Retry(ctx, g.patience, func() error {
			body, err := g.read(ctx, path, query.Encode())
			if err == nil {
				p, err = wire.DecodePage(body, member)
			}
			return err
		})
		return p, err
	}, func(p wire.Page) (bool, error) { return each(p.Items) })
}

// holds asks for the file, because files expire.
func (g *gemini) holds(ctx context.Context, input string) (bool, error) {
	if input == "" {
		return false, nil
	}
	_, err := g.file(ctx, input)
	if wire.Missing(err) {
		return false, nil
	}
	return err == nil, err
}

func (g *gemini) create(ctx context.Context, p *payload, input string) (*operation, error) {
	var made *genai.BatchJob
	err := g.Once(ctx, func(ctx context.Context) (err error) {
		defer recoverSDK(&err)
		if g.generate {
			made, err = g.sdk.Batches.Create(ctx, p.Model, &genai.BatchJobSource{FileName: input}, &genai.CreateBatchJobConfig{DisplayName: p.label()})
		} else {
			made, err = g.sdk.Batches.CreateEmbeddings(ctx, &p.Model, &genai.EmbeddingsBatchJobSource{FileName: input}, &genai.CreateEmbeddingsBatchJobConfig{DisplayName: p.label()})
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !geminiJobs.MatchString(made.Name):
		return nil, fmt.Errorf("the reply names no job, but %.100q", made.Name)
	}
	return &operation{name: made.Name, display: p.label(), model: p.Model, state: jobState(string(made.State)), created: made.CreateTime.Format(time.RFC3339Nano), input: input, answers: -1}, nil
}

// recoverSDK turns a panic into an error: the SDK panics on replies of an
// unexpected form.
func recoverSDK(err *error) {
	if recover() != nil {
		*err = errors.New("the reply does not have the documented form")
	}
}

func (g *gemini) status(ctx context.Context, job string) (*operation, error) {
	body, err := g.read(ctx, job, "")
	if err != nil {
		return nil, err
	}
	op, err := decodeOperation(body, g.Secret)
	switch {
	case err != nil:
		return nil, err
	case op.name != "" && op.name != job:
		return nil, wire.Permanent(fmt.Errorf("google was asked for job %s and answered with %.100q", job, op.name))
	}
	op.name = job
	return op, nil
}

func (g *gemini) results(ctx context.Context, op *operation) (io.ReadCloser, error) {
	switch {
	case op.output != "":
		if !geminiFiles.MatchString(op.output) {
			return nil, wire.Permanent(fmt.Errorf("its results are in %q, which is not the name of a file", op.output))
		}
		return wire.NewDownload(ctx, op.output, g.patience, func(header http.Header) (*http.Response, error) {
			req, err := g.request(ctx, http.MethodGet, op.output+":download", "alt=media", nil)
			if err != nil {
				return nil, err
			}
			maps.Copy(req.Header, header)
			return g.Send(req)
		}), nil
	case op.inlined != nil:
		lines, err := keyed(op.inlined)
		if err != nil {
			return nil, wire.Permanent(err)
		}
		return io.NopCloser(bytes.NewReader(lines)), nil
	}
	return nil, wire.Permanent(errors.New("it succeeded but has no results, neither in a file nor inline"))
}

func (g *gemini) drop(ctx context.Context, input string) {
	if input == "" {
		return
	}
	if err := g.delete(ctx, input); err != nil && ctx.Err() == nil {
		slog.Warn("an input file was not deleted; google deletes it after 48 hours", "file", input, "error", err)
	}
}

func (g *gemini) remove(ctx context.Context, name string) error {
	return wire.Retry(ctx, g.patience, func() error { return g.delete(ctx, name) })
}

// delete deletes a file. A missing file counts as deleted.
func (g *gemini) delete(ctx context.Context, name string) error {
	err := g.Do(ctx, func(ctx context.Context) (err error) {
		defer recoverSDK(&err)
		_, err = g.sdk.Files.Delete(ctx, name, nil)
		return err
	})
	if wire.Missing(err) {
		return nil
	}
	return err
}

// cancel retries transient errors: a second cancel does no harm.
func (g *gemini) cancel(ctx context.Context, job string) error {
	return wire.Retry(ctx, g.patience, func() error {
		return g.Do(ctx, func(ctx context.Context) (err error) {
			defer recoverSDK(&err)
			return g.sdk.Batches.Cancel(ctx, job, nil)
		})
	})
}
