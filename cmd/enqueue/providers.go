package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshmill/meshmill/internal/config"
	"github.com/meshmill/meshmill/internal/connect"
	"github.com/meshmill/meshmill/internal/cost"
	"github.com/meshmill/meshmill/internal/progress"
	"github.com/meshmill/meshmill/pkg/csm"
	"github.com/meshmill/meshmill/pkg/jobs"
	"github.com/meshmill/meshmill/pkg/modelslab"
)

// offer is a provider as this command needs it: what it offers, and whether
// there is an account. Without a client it can plan, and buy nothing.
type offer struct {
	jobs.Provider
	key     string // the variable that holds its key
	account func(*config.Config) *config.Account
	costVar string // the variable that holds its prices
	prices  func(*config.Config) cost.Prices
}

var offers = []offer{
	{
		csm.NewProvider(nil), "CSM_API_KEY", func(c *config.Config) *config.Account { return &c.CSM },
		"CSM_COST", func(c *config.Config) cost.Prices { return c.CSMCost },
	},
	{
		modelslab.NewProvider(nil), "MODELSLAB_API_KEY", func(c *config.Config) *config.Account { return &c.ModelsLab },
		"MODELSLAB_COST", func(c *config.Config) cost.Prices { return c.ModelsLabCost },
	},
}

func offerNames(list []offer, and string) string {
	names := make([]string, len(list))
	for i, o := range list {
		names[i] = o.Name()
	}
	return strings.Join(names, " "+and+" ")
}

func findOffer(name string) (offer, error) {
	if i := slices.IndexFunc(offers, func(o offer) bool { return o.Name() == name }); i >= 0 {
		return offers[i], nil
	}
	return offer{}, fmt.Errorf("--provider is %q, must be %s", name, offerNames(offers, "or"))
}

// chooseOffer returns the provider that is named, or else the one with a key.
func chooseOffer(name string, c *config.Config) (offer, error) {
	if name != "" {
		o, err := findOffer(name)
		if err == nil && c.Embedded && o.account(c).APIKey == "" {
			err = fmt.Errorf("%s is not set, and with --embedded this process converts: set it, or add --simulate to try without buying", o.key)
		}
		return o, err
	}
	if c.Simulate {
		return offer{}, fmt.Errorf("both providers are simulated: choose one with --provider, %s", offerNames(offers, "or"))
	}
	with := slices.DeleteFunc(slices.Clone(offers), func(o offer) bool { return o.account(c).APIKey == "" })
	switch len(with) {
	case 1:
		return with[0], nil
	case 0:
		keys := make([]string, len(offers))
		for i, o := range offers {
			keys[i] = o.key
		}
		return offer{}, fmt.Errorf("no provider is chosen and none has a key: give --provider, %s, or set %s",
			offerNames(offers, "or"), strings.Join(keys, " or "))
	}
	return offer{}, fmt.Errorf("%s have a key: choose one with --provider", offerNames(with, "and"))
}

// options makes the options of a request of a preset and of k=v pairs, which
// win. Its error joins every mistake.
func (o offer) options(preset string, pairs []string) (map[string]any, error) {
	catalog := o.Catalog()
	options := map[string]any{}
	var errs []error
	if preset != "" {
		i := slices.IndexFunc(catalog.Presets, func(p jobs.Preset) bool { return p.Name == preset })
		if i < 0 {
			names := make([]string, len(catalog.Presets))
			for i, p := range catalog.Presets {
				names[i] = p.Name
			}
			must := "must be one of " + strings.Join(names, ", ")
			if len(names) == 0 {
				must = o.Name() + " has none"
			}
			errs = append(errs, fmt.Errorf("--preset is %q, %s", preset, must))
		} else {
			maps.Copy(options, catalog.Presets[i].Options)
		}
	}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("--option is %q, must be NAME=VALUE", pair))
			continue
		}
		i := slices.IndexFunc(catalog.Options, func(o jobs.Option) bool { return o.Name == name })
		if i < 0 {
			// The same words as for a request from elsewhere.
			errs = append(errs, jobs.CheckOptions(map[string]any{name: value}, catalog.Options))
			continue
		}
		v, err := catalog.Options[i].Parse(value)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		options[name] = v
	}
	return options, errors.Join(errs...)
}

func (a *app) providersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "providers [NAME…]",
		Short: "Show the options, presets and formats of each provider",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load(cmd, config.NeedNothing)
			if err != nil {
				return err
			}
			connect.Simulate(&c)
			list := offers
			if len(args) > 0 {
				list = nil
				for _, name := range args {
					o, err := findOffer(name)
					if err != nil {
						return usagef("there is no provider %q, must be %s", name, offerNames(offers, "or"))
					}
					list = append(list, o)
				}
			}
			for i, o := range list {
				if a.json {
					if err := a.providerJSON(o, &c); err != nil {
						return err
					}
					continue
				}
				if i > 0 {
					fmt.Fprintln(a.stdout)
				}
				if err := a.provider(o, &c); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// providerLine is one provider in JSON Lines.
type providerLine struct {
	Type    string        `json:"type"`
	Schema  string        `json:"schema"`
	Name    string        `json:"name"`
	Title   string        `json:"title"`
	BaseURL string        `json:"base_url"`
	HasKey  bool          `json:"has_key"`
	Formats []string      `json:"formats"`
	Presets []presetLine  `json:"presets"`
	Options []jobs.Option `json:"options"`
}

// presetLine is a preset with what it buys.
type presetLine struct {
	jobs.Preset
	Mode    string   `json:"mode"`
	CostUSD *float64 `json:"cost_usd,omitempty"`
}

// presets completes the presets of a provider by their price.
func presets(o offer, c *config.Config) []presetLine {
	list := []presetLine{}
	for _, p := range o.Catalog().Presets {
		l := presetLine{Preset: p}
		if plan, err := o.Plan(p.Options, nil); err == nil {
			l.Mode = plan.Mode
			amount, known := o.prices(c).Of(plan.Mode)
			l.CostUSD = dollars(int64(amount), known)
		}
		list = append(list, l)
	}
	return list
}

func (a *app) providerJSON(o offer, c *config.Config) error {
	cat := o.Catalog()
	return json.NewEncoder(a.stdout).Encode(providerLine{
		"provider", lineSchema, o.Name(), cat.Title, o.account(c).BaseURL, o.account(c).APIKey != "", cat.Formats, presets(o, c), cat.Options,
	})
}

func (a *app) provider(o offer, c *config.Config) error {
	cat, w := o.Catalog(), a.stdout
	key := o.key + " is set"
	if o.account(c).APIKey == "" {
		key = o.key + " is not set"
	}
	fmt.Fprintf(w, "%s: %s at %s, %s\nformats: %s\n", o.Name(), cat.Title, o.account(c).BaseURL, key, strings.Join(cat.Formats, ", "))
	if len(cat.Presets) > 0 {
		fmt.Fprintln(w)
		t := progress.NewTable(w, "PRESET", "MODE", "COST", "OPTIONS", "MEANING")
		for _, p := range presets(o, c) {
			doc := p.Doc
			if p.Deprecated != "" {
				doc += " (deprecated: " + p.Deprecated + ")"
			}
			price := "unknown"
			if p.CostUSD != nil {
				price = cost.Amount(*p.CostUSD * 1e6).String()
			}
			t.Row(p.Name, p.Mode, price, optionText(p.Options), doc)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	t := progress.NewTable(w, "OPTION", "FOR", "VALUE", "DEFAULT", "MEANING")
	for _, opt := range cat.Options {
		def, doc := "", opt.Doc
		if opt.Default != nil {
			def = jsonText(opt.Default)
		}
		if opt.Note != "" {
			doc += " (" + opt.Note + ")"
		}
		t.Row(opt.Name, opt.Group, opt.Constraint(), def, doc)
	}
	return t.Flush()
}

func optionText(options map[string]any) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(options)) {
		parts = append(parts, k+"="+jsonText(options[k]))
	}
	return strings.Join(parts, " ")
}

// jsonText shows a value as people write it: text without quotes.
func jsonText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
