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
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"time"

	"google.golang.org/genai"

	"gbatch/pkg/exit"
	"gbatch/pkg/record"
)

// maxReply bounds a status: a job may answer inline.
const maxReply = 256 << 20

// geminiJobs and geminiFiles are the names that the Gemini API gives.
var (
	geminiJobs  = regexp.MustCompile(`^batches/[A-Za-z0-9_-]+$`)
	geminiFiles = regexp.MustCompile(`^files/[A-Za-z0-9_-]+$`)
)

// geminiInput refuses a job record whose input is not a file of the Gemini API.
func geminiInput(job *record.Job) error {
	if job.Input != "" && !geminiFiles.MatchString(job.Input) {
		return fmt.Errorf("job %s: its input %q is not a name of a file", job.Job, job.Input)
	}
	return nil
}

// A gemini is the backend that is the Gemini API, with its Files and Batches. It
// uploads, creates and deletes through Google's SDK. Lists, jobs and results it
// reads itself, since the SDK loses parts of them. All calls use one [transport].
type gemini struct {
	*transport
	http     *http.Client
	sdk      *genai.Client
	base     *url.URL
	patience time.Duration // how long transient failures are repeated
	generate bool          // jobs are created by the generic method
}

// newGemini takes the key from GOOGLE_API_KEY, else GEMINI_API_KEY, which is
// the SDK's order, and the base URL from GOOGLE_GEMINI_BASE_URL.
func newGemini(patience time.Duration) (*gemini, error) {
	variable := "GOOGLE_API_KEY"
	if os.Getenv(variable) == "" {
		variable = "GEMINI_API_KEY"
	}
	key := os.Getenv(variable)
	if key == "" {
		return nil, exit.Errorf(exit.Usage, "no API key: set GEMINI_API_KEY")
	}
	base := cmp.Or(os.Getenv("GOOGLE_GEMINI_BASE_URL"), "https://generativelanguage.googleapis.com/")
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, exit.Errorf(exit.Usage, "GOOGLE_GEMINI_BASE_URL is not the URL of a server: set it to https://… or leave it out")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, exit.Errorf(exit.Usage, "GOOGLE_GEMINI_BASE_URL would send the API key to %s unencrypted: use https", u.Hostname())
	}
	// The SDK writes to the standard logger that CreateEmbeddings is
	// experimental, and which of two keys it takes.
	log.SetOutput(io.Discard)
	t := newTransport(credential{key, "the API key was refused, check " + variable})
	g := &gemini{transport: t, http: t.client(), base: u, patience: patience}
	g.http.Transport = sdkTransport{t}
	g.sdk, err = genai.NewClient(context.Background(), &genai.ClientConfig{
		APIKey:      key,
		Backend:     genai.BackendGeminiAPI, // else GOOGLE_GENAI_USE_VERTEXAI decides
		HTTPClient:  g.http,
		HTTPOptions: genai.HTTPOptions{BaseURL: base},
	})
	if err != nil { // its text holds the whole configuration, key included
		return nil, errors.New("the client of the Gemini API could not be set up")
	}
	return g, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// get makes a GET of our own below v1beta/. A reply other than 2xx is an error.
func (g *gemini) get(ctx context.Context, path, query string, header http.Header) (resp *http.Response, err error) {
	u := g.base.JoinPath("v1beta", path)
	u.RawQuery = query
	err = g.do(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return err
		}
		if header != nil {
			req.Header = header
		}
		req.Header.Set("x-goog-api-key", g.secret)
		resp, err = g.http.Do(req)
		if err == nil && resp.StatusCode/100 != 2 {
			resp.Body.Close()
			err = fmt.Errorf("status %d", resp.StatusCode) // the outcome tells more
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// read is get with the whole body.
func (g *gemini) read(ctx context.Context, path, query string) ([]byte, error) {
	resp, err := g.get(ctx, path, query, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err == nil && len(bytes.TrimSpace(body)) == 0 {
		err = errors.New("the reply is empty")
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return body, err
}

// list calls each with the items of a list, which stand in member, and repeats
// what fails transiently.
func (g *gemini) list(ctx context.Context, path, member string, restart func(), each func(item json.RawMessage) error) error {
	return retry(ctx, g.patience, func() error {
		restart()
		return everyPage(ctx, func(ctx context.Context, token string) (page, error) {
			query := url.Values{"pageSize": {strconv.Itoa(pageSize)}}
			if token != "" {
				query.Set("pageToken", token)
			}
			body, err := g.read(ctx, path, query.Encode())
			if err != nil {
				return page{}, err
			}
			return decodePage(body, member)
		}, func(p page) error {
			for _, item := range p.items {
				if err := each(item); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func decodePage(body []byte, member string) (p page, err error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(body, &doc); err != nil {
		return p, fmt.Errorf("the reply is not a list: %w", err)
	}
	if items := doc[member]; items != nil {
		err = json.Unmarshal(items, &p.items)
	}
	if next := doc["nextPageToken"]; err == nil && next != nil {
		err = json.Unmarshal(next, &p.next)
	}
	if err != nil {
		return p, fmt.Errorf("the reply is not a list: %w", err)
	}
	return p, nil
}

func (g *gemini) lookUp(ctx context.Context, p *payload) (found []*operation, active int, err error) {
	restart := func() { found, active = nil, 0 }
	err = g.list(ctx, "batches", "operations", restart, func(item json.RawMessage) error {
		op, err := decodeOperation(item, g.secret)
		if err != nil {
			return err
		}
		if !(&record.Job{State: op.state}).Ended() {
			active++
		}
		if batch, hash, _, ok := parseLabel(op.display); ok && (batch == p.Batch || hash == p.hash) {
			found = append(found, op)
		}
		return nil
	})
	return found, active, err
}

func (g *gemini) create(ctx context.Context, p *payload, input string) (*operation, error) {
	var made *genai.BatchJob
	sent, err := g.once(ctx, func(ctx context.Context) (err error) {
		if g.generate {
			made, err = g.sdk.Batches.Create(ctx, p.Model, &genai.BatchJobSource{FileName: input}, &genai.CreateBatchJobConfig{DisplayName: p.label()})
		} else {
			made, err = g.sdk.Batches.CreateEmbeddings(ctx, &p.Model, &genai.EmbeddingsBatchJobSource{FileName: input}, &genai.CreateEmbeddingsBatchJobConfig{DisplayName: p.label()})
		}
		return err
	})
	switch {
	case err != nil && !sent && ctx.Err() == nil:
		return nil, notSent{err}
	case err != nil:
		return nil, err
	case made.Name == "":
		return nil, errors.New("the reply holds no job")
	}
	return &operation{name: made.Name, display: p.label(), model: p.Model, state: jobState(string(made.State)), input: input, answers: -1}, nil
}

func (g *gemini) status(ctx context.Context, job string) (*operation, error) {
	body, err := g.read(ctx, job, "")
	if err != nil {
		return nil, err
	}
	op, err := decodeOperation(body, g.secret)
	if err == nil {
		op.name = cmp.Or(op.name, job)
	}
	return op, err
}

func (g *gemini) results(ctx context.Context, op *operation) (io.ReadCloser, error) {
	switch {
	case op.output != "":
		if !geminiFiles.MatchString(op.output) {
			return nil, permanent{fmt.Errorf("its results are in %q, which is not a name of a file", op.output)}
		}
		return newDownload(ctx, op.output, g.patience, func(header http.Header) (*http.Response, error) {
			return g.get(ctx, op.output+":download", "alt=media", header)
		}), nil
	case op.inlined != nil:
		lines, err := keyed(op.inlined)
		if err != nil {
			return nil, permanent{err}
		}
		return io.NopCloser(bytes.NewReader(lines)), nil
	}
	return nil, permanent{errors.New("it succeeded and has no results, neither a file nor inline")}
}

// drop also takes a file that is not there any more for deleted.
func (g *gemini) drop(ctx context.Context, input string) {
	if input == "" {
		return
	}
	err := g.do(ctx, func(ctx context.Context) error {
		_, err := g.sdk.Files.Delete(ctx, input, nil)
		return err
	})
	if err != nil && !missing(err) && ctx.Err() == nil {
		slog.Warn("an input file was not deleted, google does so after 48 hours", "file", input, "error", err)
	}
}
