package wire

import (
	"context"
	"errors"
	"fmt"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"

	"gbatch/pkg/exit"
)

// DefaultToken returns a source of tokens for Google Cloud, by the Application
// Default Credentials: the file of GOOGLE_APPLICATION_CREDENTIALS (a service
// account, a workload identity), the file that gcloud auth application-default
// login writes, or the metadata server.
func DefaultToken() (func(context.Context) (string, error), error) {
	found, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{"https://www.googleapis.com/auth/cloud-platform"}})
	if err != nil {
		return nil, exit.Errorf(exit.Usage, "there are no credentials for Google Cloud: run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS: %w", err)
	}
	return func(ctx context.Context) (string, error) {
		t, err := found.Token(ctx)
		if err != nil {
			err = fmt.Errorf("no token for Google Cloud: %w", err)
			if refused := new(auth.Error); errors.As(err, &refused) && !refused.Temporary() {
				err = Permanent(err)
			}
			return "", err
		}
		return t.Value, nil
	}, nil
}
