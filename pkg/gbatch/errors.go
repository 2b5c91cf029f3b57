package gbatch

import (
	"log/slog"
	"slices"
	"strings"

	"gbatch/pkg/exit"
	"gbatch/pkg/record"
)

// A oneBatch error is about one batch or job. The other batches and jobs are
// still handled.
type oneBatch struct{ error }

func (e *oneBatch) Unwrap() error { return e.error }

// refusals keeps an error that is about one batch or job until the end of a run.
// It keeps the first error that is not exit.TryLater, or else the first error.
// The other errors become warnings.
type refusals struct{ first error }

func (r *refusals) add(err error) {
	if r.first == nil {
		r.first = err
		return
	}
	if exit.Code(r.first) == exit.TryLater && exit.Code(err) != exit.TryLater {
		r.first, err = err, r.first
	}
	slog.Warn("another was refused", "error", err)
}

var codeNames = strings.Fields(`OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS
	PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE
	DATA_LOSS UNAUTHENTICATED`)

// codeName returns the name of a google.rpc.Code, or "".
func codeName(code int) string {
	if code < 0 || code >= len(codeNames) {
		return ""
	}
	return codeNames[code]
}

// httpCodes maps HTTP codes to codes of google.rpc.Code.
var httpCodes = map[int]int{400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 409: 10, 412: 9, 413: 3, 416: 11, 425: 14, 429: 8, 499: 1,
	500: 13, 501: 12, 502: 14, 503: 14, 504: 4}

// canonical returns a status with the code and the name of a google.rpc.Code.
// The name takes precedence over the code, which may be an HTTP code.
func canonical(s record.Status) *record.Status {
	if code := slices.Index(codeNames, s.Status); code > 0 {
		s.Code = code
		return &s
	}
	if s.Code >= len(codeNames) {
		code, known := httpCodes[s.Code]
		switch {
		case !known && s.Code/100 == 5:
			code = 13
		case !known:
			code = 2
		}
		s.Code = code
	}
	if s.Code <= 0 { // an error is not OK
		s.Code = 2
	}
	if s.Status == "" || s.Status == "OK" {
		s.Status = codeName(s.Code)
	}
	return &s
}
