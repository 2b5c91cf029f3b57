package gbatch

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/genai"

	"gbatch/pkg/ledger"
	"gbatch/pkg/progress"
	"gbatch/pkg/wire"
)

func (g *gemini) upload(ctx context.Context, p *payload, _ ledger.Entry, again bool) (name string, err error) {
	f, err := g.store(ctx, p, again)
	// A create with a file that is still being processed would be refused.
	for b := wire.NewBackoff(g.patience); err == nil && f.state == "PROCESSING"; {
		if err = b.Pause(ctx, fmt.Errorf("the uploaded file %s is still being processed", f.name)); err == nil {
			f, err = g.file(ctx, f.name)
		}
	}
	if err == nil && f.state == "FAILED" {
		err = wire.Permanent(fmt.Errorf("google could not process the uploaded file %s", f.name))
	}
	if err != nil {
		return "", err
	}
	return f.name, nil
}

// store uploads p. If an attempt fails, its reply may have been lost, so the
// files at Google are examined before the next attempt.
func (g *gemini) store(ctx context.Context, p *payload, again bool) (f *storedFile, err error) {
	for b := wire.NewBackoff(g.patience); ; {
		if again {
			if f, err = g.sweep(ctx, p, ""); f != nil || err != nil {
				return f, err
			}
		}
		err = g.Do(ctx, func(ctx context.Context) (err error) {
			f, err = g.uploadOnce(ctx, p)
			return err
		})
		if err == nil || !wire.Transient(err) {
			return f, err
		}
		if again, err = true, b.Pause(ctx, err); err != nil {
			return f, err
		}
	}
}

func (g *gemini) uploadOnce(ctx context.Context, p *payload) (f *storedFile, err error) {
	defer recoverSDK(&err)
	bytes := progress.Of(ctx).Flow("bytes")
	before := bytes.Done()
	defer func() {
		if err != nil { // all bytes are sent again
			bytes.Set(before)
		}
	}()
	made, err := g.sdk.Files.Upload(ctx, p.reader(), &genai.UploadFileConfig{
		MIMEType:    "application/jsonl",
		DisplayName: p.label(),
		HTTPOptions: &genai.HTTPOptions{Headers: http.Header{
			"X-Goog-Upload-Header-Content-Length": {strconv.FormatInt(p.size, 10)},
		}},
	})
	switch {
	case err != nil:
		return f, err
	case !geminiFiles.MatchString(made.Name):
		return f, fmt.Errorf("the reply to the upload does not name a file, but %.100q", made.Name)
	case made.SizeBytes != nil && *made.SizeBytes != p.size:
		return f, fmt.Errorf("the uploaded file %s does not have the %d bytes that were sent", made.Name, p.size)
	}
	return &storedFile{name: made.Name, state: string(made.State)}, nil
}

func (g *gemini) file(ctx context.Context, name string) (f *storedFile, err error) {
	err = wire.Retry(ctx, g.patience, func() error {
		body, err := g.read(ctx, name, "")
		if err == nil {
			f, err = decodeFile(body, g.Secret)
		}
		return err
	})
	return f, err
}

func (g *gemini) tidy(ctx context.Context, p *payload, used string) error {
	_, err := g.sweep(ctx, p, used)
	return err
}

// decodeFile reads a file as GET files/… and the list return it.
func decodeFile(item []byte, key string) (*storedFile, error) {
	var f struct {
		Name, DisplayName, State, Source, CreateTime, ExpirationTime, Sha256Hash maybe[string]

		SizeBytes *number
	}
	if err := json.Unmarshal(item, &f); err != nil || !geminiFiles.MatchString(f.Name.v) {
		return nil, fmt.Errorf("the reply has an entry that is not a file: %.100s", wire.Redact(wire.OneLine(string(item)), key))
	}
	size := int64(-1)
	if f.SizeBytes != nil {
		size = int64(*f.SizeBytes)
	}
	return &storedFile{f.Name.v, f.DisplayName.v, f.State.v, f.Source.v, f.CreateTime.v, f.ExpirationTime.v, f.Sha256Hash.v, size}, nil
}

// sweep searches the uploaded files for those with p's name. If used is empty,
// it returns a file that has the content of p. It deletes the other files.
func (g *gemini) sweep(ctx context.Context, p *payload, used string) (usable *storedFile, err error) {
	var found []*storedFile
	err = g.files(ctx, func(page []*storedFile) (more bool, err error) {
		for _, f := range page {
			if batch, hash, _, ok := parseLabel(f.display); ok && batch == p.Batch && hash == p.hash {
				found = append(found, f)
			}
		}
		return true, nil
	})
	if err != nil {
		return usable, err
	}
	for _, f := range found {
		switch {
		case f.name == used:
		case used == "" && usable == nil && f.holds(p):
			usable = f
			slog.Info("an input file uploaded before is used", "file", f.name)
		default:
			g.drop(ctx, f.name)
		}
	}
	return usable, nil
}

// holds reports whether a file at Google has exactly the bytes of p. In real
// replies the hash is base64 of its hex digits; according to the SDK's comment
// it is base64 of its bytes.
func (f *storedFile) holds(p *payload) bool {
	if f.state != "ACTIVE" && f.state != "PROCESSING" || f.size != p.size {
		return false
	}
	h := sha256.New()
	if _, err := io.Copy(h, p.reader()); err != nil {
		return false
	}
	sum := h.Sum(nil)
	return f.sha256 == base64.StdEncoding.EncodeToString(sum) ||
		f.sha256 == base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(sum)))
}

// An sdkTransport adapts a transport to the SDK's upload.
type sdkTransport struct {
	*wire.Transport
	path string // of the base URL, without a final slash
}

func (t sdkTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !strings.HasPrefix(req.Header.Get("X-Goog-Upload-Command"), "upload") {
		return t.Transport.RoundTrip(req)
	}
	// Google gives a URL for the upload of the bytes. The SDK replaces its host
	// by that of the base URL, but does not add the path of the base URL.
	if !strings.HasPrefix(req.URL.Path, t.path+"/") {
		req = req.Clone(req.Context())
		req.URL.Path, req.URL.RawPath = t.path+req.URL.Path, ""
	}
	if req.Body != nil {
		req.Body = counted{req.Body, progress.Of(req.Context()).Flow("bytes")}
	}
	resp, err := t.Transport.RoundTrip(req)
	if err != nil || resp.Header.Get("X-Goog-Upload-Status") != "" {
		return resp, err
	}
	// If a reply does not have this header, the SDK sends the same bytes three
	// more times, sleeps in between, and then loses the error.
	resp.Body.Close()
	wire.Fail(req, errors.New("the reply to the upload has no status"))
	return nil, errors.New("the upload failed") // the outcome's error says more
}
