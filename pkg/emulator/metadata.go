package emulator

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// This file is the metadata server of a machine at Google, which gives access
// tokens to Google's libraries (cloud.google.com/compute/docs/metadata). They find
// it by GCE_METADATA_HOST. Its paths are not below Options.BasePath.

const metadataPath = "/computeMetadata/v1/"

// emulatedProject is the project of the machine.
const emulatedProject = "emulator"

func (s *Server) routeMetadata(r *http.Request, c *call) handler {
	path, ok := strings.CutPrefix(r.URL.Path, metadataPath)
	if !ok || r.Method != http.MethodGet {
		return nil
	}
	c.op = "metadata"
	text := ""
	switch path {
	case "instance/service-accounts/default/token":
		return s.token
	case "instance/service-accounts/default/email":
		text = "default@" + emulatedProject + ".iam.gserviceaccount.com"
	case "project/project-id":
		text = emulatedProject
	case "project/numeric-project-id":
		text = projectNumber(emulatedProject)
	case "universe/universe-domain":
		text = "googleapis.com"
	case "instance", "instance/": // a library asks whether the server exists
		text = "service-accounts/\n"
	default:
		return nil
	}
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		w.Header().Set("Metadata-Flavor", "Google")
		w.Header().Set("Content-Type", "application/text")
		_, err := io.WriteString(w, text)
		return err
	}
}

// checkFlavor refuses a request without the header that a browser cannot send.
func checkFlavor(r *http.Request) error {
	if r.Header.Get("Metadata-Flavor") != "Google" {
		return &apiError{code: http.StatusForbidden, plain: true, message: "Missing required header Metadata-Flavor: Google\n"}
	}
	return nil
}

// tokenPrefix, the second at which a token expires, a dot and random digits are a
// token. So a server that was started again knows the tokens of the one before.
const tokenPrefix = "ya29.emulator."

func (s *Server) token(w http.ResponseWriter, _ *http.Request, _ *call) error {
	life := s.opts.TokenLife
	random := make([]byte, 16)
	rand.Read(random)
	w.Header().Set("Metadata-Flavor", "Google")
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": fmt.Sprintf("%s%d.%s", tokenPrefix, time.Now().Add(life).UnixMilli(), hex.EncodeToString(random)),
		"expires_in":   max(1, int(life.Seconds())), "token_type": "Bearer",
	})
	return nil
}

// checkBearer refuses a token that the metadata server did not give, or that has
// expired. It accepts a request without a token: Google's libraries send none if
// STORAGE_EMULATOR_HOST is set.
func checkBearer(r *http.Request) error {
	header := r.Header.Get("Authorization")
	if header == "" {
		return nil
	}
	token, ok := strings.CutPrefix(header, "Bearer "+tokenPrefix)
	digits, _, whole := strings.Cut(token, ".")
	expires, err := strconv.ParseInt(digits, 10, 64)
	if !ok || !whole || err != nil || time.Now().UnixMilli() >= expires {
		return &apiError{
			code: http.StatusUnauthorized, message: "Invalid Credentials",
			header: http.Header{"Www-Authenticate": {`Bearer realm="https://accounts.google.com/", error="invalid_token"`}},
		}
	}
	return nil
}

// projectNumber is the number of a project, which Google puts into the names of
// resources in place of the id.
func projectNumber(id string) string {
	if strings.Trim(id, "0123456789") == "" {
		return id
	}
	return strconv.FormatUint(100_000_000_000+hash(id)%900_000_000_000, 10)
}
