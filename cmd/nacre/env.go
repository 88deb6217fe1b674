package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
)

func envCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "env",
		Short:   "Print what points AWS's tools at this cloud",
		Example: "  eval \"$(nacre env)\"",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := g.absoluteDir()
			if err != nil {
				return err
			}
			a, err := dir.readAccess()
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd, a)
			}
			for _, v := range [][2]string{{"AWS_ENDPOINT_URL", a.Endpoint}, {"AWS_ACCESS_KEY_ID", a.AccessKey},
				{"AWS_SECRET_ACCESS_KEY", a.Secret}, {"AWS_DEFAULT_REGION", a.Region}} {
				fmt.Fprintf(cmd.OutOrStdout(), "export %s='%s'\n", v[0], v[1])
			}
			return nil
		},
	}
}

func configureCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "configure",
		Short: "Write the AWS CLI profile \"nacre\"",
		Long: `Write the profile "nacre" into the AWS CLI's configuration, for "aws --profile nacre".

AWS CLI 2.13 and newer take the endpoint from the profile; give older ones --endpoint-url.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := g.absoluteDir()
			if err != nil {
				return err
			}
			a, err := dir.readAccess()
			if err != nil {
				return err
			}
			home, err := os.UserHomeDir()
			if err != nil {
				return fmt.Errorf("find the AWS CLI's configuration: %w", err)
			}
			config := firstOf(os.Getenv("AWS_CONFIG_FILE"), filepath.Join(home, ".aws", "config"))
			secrets := firstOf(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), filepath.Join(home, ".aws", "credentials"))
			if err := writeSection(config, "profile nacre", fmt.Sprintf("region = %s\nendpoint_url = %s\n", a.Region, a.Endpoint)); err != nil {
				return err
			}
			if err := writeSection(secrets, "nacre", fmt.Sprintf("aws_access_key_id = %s\naws_secret_access_key = %s\n", a.AccessKey, a.Secret)); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "profile \"nacre\" written to %s and %s; try: aws --profile nacre ec2 describe-instances\n", config, secrets)
			return nil
		},
	}
}

// writeSection replaces one section of an INI file, or adds it; all else stays as it is.
func writeSection(path, name, body string) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	section := "[" + name + "]\n" + body
	text := string(old)
	// A section ends where the next one begins.
	at := regexp.MustCompile(`(?m)^\[` + regexp.QuoteMeta(name) + `\][^\n]*\n(?:[^\[\n][^\n]*\n|\n)*`)
	if loc := at.FindStringIndex(text); loc != nil {
		text = text[:loc[0]] + section + text[loc[1]:]
	} else {
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		text += section
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := renameio.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
