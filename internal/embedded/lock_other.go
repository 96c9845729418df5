//go:build !unix

package embedded

import (
	"errors"
	"os"
)

func lockFile(*os.File) (bool, error) {
	return false, errors.New("embedded servers need file locks of a Unix system: give NATS_URL and AWS_ENDPOINT_URL_S3 instead")
}
