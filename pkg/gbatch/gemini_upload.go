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
)

// upload returns the name of the file, files/…. The reply of an attempt may be
// what was lost, so the files at Google are looked at before the next attempt.
func (g *gemini) upload(ctx context.Context, p *payload, again bool) (name string, err error) {
	for b := newBackoff(g.patience); ; {
		if again {
			if name, err := g.sweep(ctx, p, ""); name != "" || err != nil {
				return name, err
			}
		}
		err := g.do(ctx, func(ctx context.Context) (err error) {
			name, err = g.uploadOnce(ctx, p)
			return err
		})
		if err == nil || !transient(err) {
			return name, err
		}
		if again, err = true, b.pause(ctx, err); err != nil {
			return "", err
		}
	}
}

func (g *gemini) uploadOnce(ctx context.Context, p *payload) (name string, err error) {
	defer func() {
		// The SDK takes for granted that the last reply holds a file.
		if recover() != nil {
			err = errors.New("the reply to the upload holds no file")
		}
	}()
	f, err := g.sdk.Files.Upload(ctx, p.reader(), &genai.UploadFileConfig{
		MIMEType:    "application/jsonl",
		DisplayName: p.label(),
		HTTPOptions: &genai.HTTPOptions{Headers: http.Header{
			"X-Goog-Upload-Header-Content-Length": {strconv.FormatInt(p.size, 10)},
		}},
	})
	if err != nil {
		return "", err
	}
	if f.Name == "" || f.SizeBytes != nil && *f.SizeBytes != p.size {
		return "", fmt.Errorf("the uploaded file %s is not of the %d bytes that were sent", f.Name, p.size)
	}
	return f.Name, nil
}

func (g *gemini) tidy(ctx context.Context, p *payload, used string) error {
	_, err := g.sweep(ctx, p, used)
	return err
}

// A geminiFile is an uploaded file as the list shows it.
type geminiFile struct {
	Name, DisplayName, State, Sha256Hash string
	SizeBytes                            *number
}

// sweep looks through the uploaded files for those of p's name. With no file in
// use it returns one whose content is p's. It deletes the others.
func (g *gemini) sweep(ctx context.Context, p *payload, used string) (name string, err error) {
	var found []geminiFile
	err = g.list(ctx, "files", "files", func() { found = nil }, func(item json.RawMessage) error {
		var f geminiFile
		if err := json.Unmarshal(item, &f); err != nil {
			return err
		}
		if batch, hash, _, ok := parseLabel(f.DisplayName); ok && batch == p.Batch && hash == p.hash {
			found = append(found, f)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for _, f := range found {
		switch {
		case f.Name == used:
		case used == "" && name == "" && f.holds(p):
			name = f.Name
			slog.Info("an input file uploaded before is used", "file", name)
		default:
			g.drop(ctx, f.Name)
		}
	}
	return name, nil
}

// holds reports whether a file at Google has exactly the bytes of p. Real
// replies have the hash as base64 of its hex digits, the SDK's comment as base64
// of its bytes.
func (f *geminiFile) holds(p *payload) bool {
	if f.State != "ACTIVE" || f.SizeBytes == nil || int64(*f.SizeBytes) != p.size {
		return false
	}
	h := sha256.New()
	if _, err := io.Copy(h, p.reader()); err != nil {
		return false
	}
	sum := h.Sum(nil)
	return f.Sha256Hash == base64.StdEncoding.EncodeToString(sum) ||
		f.Sha256Hash == base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(sum)))
}

// An sdkTransport keeps the SDK's upload from losing errors. To a reply without
// this header the SDK sends the same bytes three times more, sleeps in between,
// and then loses the error.
type sdkTransport struct{ *transport }

func (t sdkTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.transport.RoundTrip(req)
	if err != nil || !strings.HasPrefix(req.Header.Get("X-Goog-Upload-Command"), "upload") || resp.Header.Get("X-Goog-Upload-Status") != "" {
		return resp, err
	}
	resp.Body.Close()
	if o, _ := req.Context().Value(outcomeKey{}).(*outcome); o != nil && o.err == nil {
		o.err = errors.New("the reply to the upload does not say how it stands")
	}
	return nil, errors.New("the upload failed") // the outcome tells more
}
