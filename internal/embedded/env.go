package embedded

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const region = "us-east-1"

// keyPair is what S3 clients sign with.
type keyPair struct{ id, secret string }

// loadKeys takes the keys from an env file, or makes new ones.
func loadKeys(file string) (keyPair, error) {
	raw, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return keyPair{}, fmt.Errorf("credentials: %w", err)
	}
	env := parseEnv(raw)
	k := keyPair{env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]}
	if k.id == "" || k.secret == "" {
		k = keyPair{"MESHMILL" + rand.Text()[:12], rand.Text() + rand.Text()[:14]}
	}
	return k, nil
}

// writeEnv writes the file that a shell loads. No address holds a credential.
func (s *Servers) writeEnv(listens bool) error {
	vars := [][2]string{
		{"AWS_ENDPOINT_URL_S3", s.store.Endpoint},
		{"AWS_REGION", s.store.Region},
		{"AWS_ACCESS_KEY_ID", s.store.AccessKeyID},
		{"AWS_SECRET_ACCESS_KEY", s.store.SecretAccessKey},
		{"MESHMILL_BUCKET", s.store.Bucket},
	}
	if listens {
		vars = append([][2]string{{"NATS_URL", s.NATSURL()}, {"NATS_CREDS", s.creds}}, vars...)
	}
	var b bytes.Buffer
	b.WriteString("# Addresses and credentials of the embedded servers. The addresses hold while\n" +
		"# they run; a later start keeps the credentials. Load it with: . " + quote(s.EnvFile()) + "\n")
	for _, v := range vars {
		fmt.Fprintf(&b, "export %s=%s\n", v[0], quote(v[1]))
	}
	if err := writeSecret(s.EnvFile(), b.Bytes()); err != nil {
		return fmt.Errorf("write the environment file: %w", err)
	}
	return nil
}

// quote makes a word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// parseEnv reads what writeEnv wrote, and passes over everything else.
func parseEnv(raw []byte) map[string]string {
	env := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		inner, quoted := strings.CutPrefix(value, "'")
		inner, closed := strings.CutSuffix(inner, "'")
		if !ok || !quoted || !closed || name == "" || strings.ContainsAny(name, " #") {
			continue
		}
		if plain := strings.ReplaceAll(inner, `'\''`, "'"); quote(plain) == value {
			env[name] = plain
		}
	}
	return env
}

// writeSecret replaces a file as a whole; only its owner may read it.
func writeSecret(file string, raw []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
