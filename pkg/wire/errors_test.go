package wire

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

var secret = Credential{Secret: "SECRETKEY", Refused: "the API key was refused, check GEMINI_API_KEY"}

var apiErrors = []struct {
	code         int
	retry, body  string
	text         string
	wait         time.Duration
	refused, key bool
}{
	{429, "", `{"error":{"code":429,"message":"Quota\nexceeded","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"30s"}]}}`,
		"google answered 429 RESOURCE_EXHAUSTED: Quota; exceeded", 30 * time.Second, false, false},
	{429, "7", `{}`, "google answered 429: Too Many Requests", 7 * time.Second, false, false},
	{503, "0.25", ``, "google answered 503: Service Unavailable", 250 * time.Millisecond, false, false},
	{503, "-1", `<html>proxy</html>`, "google answered 503: Service Unavailable", 0, false, false},
	{502, "soon", "bad\ngateway", "google answered 502: bad; gateway", 0, false, false},
	{408, "", "", "google answered 408: Request Timeout", 0, false, false},
	{400, "", `{"error":{"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}`,
		"the API key was refused, check GEMINI_API_KEY: google answered 400 INVALID_ARGUMENT: API key not valid.", 0, true, true},
	{401, "", "", "the API key was refused, check GEMINI_API_KEY: google answered 401: Unauthorized", 0, true, true},
	{403, "", `{"error":{"message":"no SECRETKEY here?key=SECRETKEY"}}`, "the API key was refused, check GEMINI_API_KEY: google answered 403: no [API key] here?key=[API key]", 0, true, true},
	{404, "", `{"error":{"message":"Requested entity was not found.","status":"NOT_FOUND"}}`, "google answered 404 NOT_FOUND: Requested entity was not found.", 0, true, false},
	{400, "", `{"error":{"message":"Error on line 1: a\nError on line 2: b\n\nError on line 3: c\nError on line 4: d\nError on line 5: e\nError on line 6: f\n"}}`,
		"google answered 400: Error on line 1: a; Error on line 2: b; Error on line 3: c; Error on line 4: d; and 2 more lines", 0, true, false},
	{400, "", `{"error":"text"}`, `google answered 400: {"error":"text"}`, 0, true, false},
	{302, "", "", "google answered 302: Found", 0, false, false},
	{499, "", `{"error":{"code":499,"status":"CANCELLED"}}`, "google answered 499 CANCELLED: ", 0, false, false},
}

func TestAPIErrors(t *testing.T) {
	for _, c := range apiErrors {
		header := http.Header{}
		header.Set("Retry-After", c.retry)
		e := NewError(&http.Response{StatusCode: c.code, Header: header}, []byte(c.body), secret)
		if e.Error() != c.text || e.Wait != c.wait || Refused(e) != c.refused || Transient(e) == (c.refused || c.code == 302) || e.Auth() != c.key {
			t.Errorf("%d %s:\n%s, wait %v, refused %v, auth %v\nwant\n%s", c.code, c.body, e, e.Wait, Refused(e), e.Auth(), c.text)
		}
	}
	at := http.Header{}
	at.Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
	if e := NewError(&http.Response{StatusCode: 503, Header: at}, nil, Credential{}); e.Wait < 59*time.Minute || e.Wait > time.Hour {
		t.Errorf("Retry-After as a date: %v", e.Wait)
	}
	if !Transient(errors.New("connection reset")) || Refused(errors.New("x")) {
		t.Error("an error of the network is not transient")
	}
	long := NewError(&http.Response{StatusCode: 500}, []byte(strings.Repeat("я", 10000)), Credential{})
	if n := len([]rune(long.Message)); n > 510 {
		t.Errorf("a message of %d characters", n)
	}
}

func FuzzAPIError(f *testing.F) {
	for _, c := range apiErrors {
		f.Add(c.code, c.retry, []byte(c.body))
	}
	f.Fuzz(func(t *testing.T, code int, retry string, body []byte) {
		e := NewError(&http.Response{StatusCode: code, Header: http.Header{"Retry-After": {retry}}}, body, secret)
		if strings.ContainsAny(e.Error(), "\n\r") || strings.Contains(e.Error(), "SECRETKEY") || len(e.Message) > 4000 || e.Wait < 0 {
			t.Errorf("%+v", e)
		}
	})
}
