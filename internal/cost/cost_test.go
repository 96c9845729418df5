package cost_test

import (
	"testing"

	"github.com/meshmill/meshmill/internal/cost"
)

func TestAmounts(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"0.20": "USD 0.20", "12": "USD 12.00", "$5.5": "USD 5.50", "20USD": "USD 20.00", "USD 3": "USD 3.00",
		"0.0035": "USD 0.0035", "0": "USD 0.00", "1000.00": "USD 1000.00", "0.125": "USD 0.125",
	} {
		a, err := cost.Parse(in)
		if err != nil || a.String() != want {
			t.Errorf("%s = %s, %v; want %s", in, a, err, want)
		}
	}
	for _, in := range []string{"", "-1", "free", "NaN", "Inf", "1e99", "0x10", "1,5", "99999999999"} {
		if a, err := cost.Parse(in); err == nil {
			t.Errorf("%q was taken for %s", in, a)
		}
	}
}

func TestPrices(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ prices, mode, want string }{
		{"0.20", "v2 base", "USD 0.20"},
		{"v2=0.20, v1 refine = 1.00", "v2 turbo with pbr texture", "USD 0.20"},
		{"v2=0.20,v1 refine=1.00", "v1 refine", "USD 1.00"},
		{"v2=0.20,v1 refine=1.00", "v1 sculpt", "unknown"},
		{"v2=0.20,*=3", "v1 sculpt", "USD 3.00"},
		{"v1=1,v1 sculpt=2", "v1 sculpt, refined", "USD 2.00"},
		{"v1 sculpt=2; v1 sculpt, refined=4", "v1 sculpt, refined", "USD 4.00"},
		{"v1 s=2", "v1 sculpt", "unknown"},
	} {
		p, err := cost.ParsePrices(tc.prices)
		if err != nil {
			t.Errorf("%s: %v", tc.prices, err)
			continue
		}
		got := "unknown"
		if a, ok := p.Of(tc.mode); ok {
			got = a.String()
		}
		if got != tc.want {
			t.Errorf("%s: %s costs %s, want %s", tc.prices, tc.mode, got, tc.want)
		}
	}
	for _, in := range []string{"cheap", "v2=", "=1", "v2=1,", "v2=-1"} {
		if _, err := cost.ParsePrices(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
	if _, ok := (cost.Prices{}).Of("v2 base"); ok {
		t.Error("without a configured price the cost is known")
	}
}

func TestSumAndThreshold(t *testing.T) {
	t.Parallel()
	threshold := func(s string) cost.Threshold {
		th, err := cost.ParseThreshold(s)
		if err != nil {
			t.Fatal(err)
		}
		return th
	}
	var known, mixed, none cost.Sum
	for range 150 {
		known.Add(200_000, true)
	}
	mixed.Add(200_000, true)
	mixed.Add(0, false)
	for _, tc := range []struct {
		sum       *cost.Sum
		text      string
		threshold string
		asks      bool
	}{
		{&known, "about USD 30.00", "100", true},
		{&known, "about USD 30.00", "150", false},
		{&known, "about USD 30.00", "20USD", true},
		{&known, "about USD 30.00", "30USD", false},
		{&known, "about USD 30.00", "off", false},
		{&mixed, "about USD 0.20, and an unknown amount for 1 of them", "$0.10", false},
		{&mixed, "about USD 0.20, and an unknown amount for 1 of them", "0", true},
		{&none, "nothing", "0", false},
	} {
		if tc.sum.String() != tc.text || threshold(tc.threshold).Asks(tc.sum) != tc.asks {
			t.Errorf("%s asks above %s: %t, want %t", tc.sum, tc.threshold, !tc.asks, tc.asks)
		}
	}
	for _, in := range []string{"-1", "many", "USD", "1.5"} {
		if _, err := cost.ParseThreshold(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

func FuzzPrices(f *testing.F) {
	f.Add("v2=0.20,*=1")
	f.Add("v1 sculpt, refined=4;2")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := cost.ParsePrices(s)
		if err != nil {
			return
		}
		if a, ok := p.Of("v2 base"); ok && a < 0 {
			t.Errorf("%q gives a negative price %s", s, a)
		}
	})
}
